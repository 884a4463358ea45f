"""A Django Channels layer on SQLite whose receivers sleep until a row is committed."""

__version__ = "0.5.0"
