"""What the layers raise beside ``ChannelFull`` and ``MessageTooLarge``, which are Channels' own.

``channels.exceptions.InvalidChannelLayerError`` and Django's ``ImproperlyConfigured`` tell of
wrong settings.  Below::

    InvalidMessage (TypeError, AssertionError)
    ForeignChannel (ValueError, AssertionError)
    StoreUnavailable (django.db.OperationalError)

The two that are an ``AssertionError`` as well are so because the layers people come from raise
that, by ``assert``; ours are raised under ``python -O`` too.
"""

from django.db import OperationalError

__all__ = ["ForeignChannel", "InvalidMessage", "StoreUnavailable"]


class InvalidMessage(TypeError, AssertionError):
    """The message is no dict, or holds what cannot be encoded.  Nothing was written."""


class ForeignChannel(ValueError, AssertionError):
    """``receive()`` on a process-local channel that another process, or layer, made."""


class StoreUnavailable(OperationalError):
    """The database could not be read or written: locked for too long, full, read-only, gone."""
