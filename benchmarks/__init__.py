"""How fast the layers are, side by side in one run, between real processes."""
