"""What an operator may want to be called for; `django.dispatch.Signal`, sent in whichever thread.

Each comes with ``database``, the alias that the layer uses.  Receivers must be quick and must not
block, for some are called on an event loop.  What they raise is logged, and goes no further.  None
of them is sent for a message that goes its way.
"""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

__all__ = ["channel_full", "send", "store_available", "store_unavailable"]

logger = logging.getLogger(__name__)

#: A message was refused (``channel``), or missed by ``count`` members of ``group``; the other one
#: of the two is None.
channel_full = Signal()
#: Looking for messages fails: ``error``.  Once, until `store_available`.
store_unavailable = Signal()
#: Looking works again.
store_available = Signal()


def send(signal: Signal, database: str, **what: Any) -> None:
    """Sends it, with the alias of the layer's database; there is no ``sender``."""
    for receiver, answer in signal.send_robust(sender=None, database=database, **what):
        if isinstance(answer, Exception):
            logger.error("receiver %r of a signal failed: %r", receiver, answer)
