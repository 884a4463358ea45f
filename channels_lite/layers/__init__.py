"""LAYERS: the classes that Channels calls.  ``BACKEND`` names one of them by its full path.

`base` implements the specification once for all three.  `parts` connects the parts of a layer in
one process, and `engine` closes, forks and drops them.  `configured` finds our entries in
``CHANNEL_LAYERS``.

Imports `delivery`, `store` and `wake`, but not `monitor`.  Runs on the callers' loops.
"""
