"""The channel-layer specification, on every layer."""
