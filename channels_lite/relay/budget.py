"""The bytes of messages that wait for the engine: posts, jobs, and work of committed transactions.

An engine that is slow, or frozen, is noticed within `DEADLINE`.  In this time senders may produce
any amount.  Above the limit, further messages are refused, which is certain, instead of being in
doubt.

Thread: any.  One lock guards the count.
"""

from __future__ import annotations

import threading

from channels_lite.errors import StoreUnavailable

__all__ = ["MOST", "Budget"]

#: Bytes.  One message more may be of any size, so that each message can be sent.
MOST = 64 * 1024 * 1024


class Budget:
    """Owns the count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, size: int) -> None:
        """Counts ``size`` bytes.  Raises ``StoreUnavailable`` if there are too many already."""
        with self._lock:
            if self._taken < MOST:
                self._taken += size
                return
        raise StoreUnavailable(
            f"{self._taken} bytes of messages already wait for the relay's engine: send less at "
            "once, or connect it by a faster network"
        )

    def give_back(self, size: int) -> None:
        """They do not wait any more."""
        with self._lock:
            self._taken -= size
