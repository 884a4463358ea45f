"""System checks: what is wrong with the settings, before the first message."""
