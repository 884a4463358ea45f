"""Signals about problems: `django.dispatch.Signal`, sent on the thread where the problem occurs.

Each has the argument ``database``, the alias that the layer uses.  Receivers must be fast and must
not block, because some run on an event loop.  Their exceptions are logged, and have no other
effect.  A message that is delivered normally sends none of them.
"""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

__all__ = ["channel_full", "send", "store_available", "store_unavailable"]

logger = logging.getLogger(__name__)

#: A message was refused (``channel``), or missed by ``count`` members of ``group``.  The other one
#: of the two is None.
channel_full = Signal()
#: Reading messages fails, with ``error``.  Sent once, until `store_available`.
store_unavailable = Signal()
#: Reading messages works again.
store_available = Signal()


def send(signal: Signal, database: str, **what: Any) -> None:
    """Sends the signal with the alias of the layer's database, without a ``sender``."""
    for receiver, answer in signal.send_robust(sender=None, database=database, **what):
        if isinstance(answer, Exception):
            logger.error("receiver %r of a signal failed: %r", receiver, answer)
