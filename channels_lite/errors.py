"""Exceptions of the layers, besides Channels' own ``ChannelFull`` and ``MessageTooLarge``.

``channels.exceptions.InvalidChannelLayerError`` and Django's ``ImproperlyConfigured`` report wrong
settings.  The others are::

    InvalidMessage (TypeError, AssertionError)
    ForeignChannel (ValueError, AssertionError)
    InvalidPosition (ValueError)
    StoreUnavailable (django.db.OperationalError)

Two of them are also an ``AssertionError``, because other layers raise that, with ``assert``.  Ours
are also raised under ``python -O``.
"""

from django.db import OperationalError

__all__ = ["ForeignChannel", "InvalidMessage", "InvalidPosition", "StoreUnavailable"]


class InvalidMessage(TypeError, AssertionError):
    """The message is not a dict, or contains an object that cannot be encoded.  It was not sent."""


class ForeignChannel(ValueError, AssertionError):
    """``receive()`` on a process-local channel that another process or layer created."""


class InvalidPosition(ValueError):
    """``after`` is not the ``history_id`` of a message, nor a ``position``, of any group."""


class StoreUnavailable(OperationalError):
    """The database cannot be read or written: locked for too long, full, read-only or gone."""
