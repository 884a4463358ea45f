"""A Django Channels layer on SQLite whose receivers sleep until a row is committed."""

__version__ = "1.0.0b1"
