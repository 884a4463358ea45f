"""The layers; name one of them as ``BACKEND``, by its full path."""
