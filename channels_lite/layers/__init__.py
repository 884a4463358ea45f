"""LAYERS: what Channels calls; name one of them as ``BACKEND``, by its full path.

`base` is the specification, once for all three; `parts` puts together what a layer consists of in
one process, `engine` closes, forks and drops it; `configured` knows which entries of
``CHANNEL_LAYERS`` are ours.

Imports `delivery`, `store` and `wake`, and nothing of `monitor`.  Runs on the callers' loops.
"""
