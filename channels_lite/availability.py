"""RECEIVE: whether looking for messages works, and whether it brings anything.

Thread: any, without a lock: a count that is off by one does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from django.core.exceptions import ImproperlyConfigured

from channels_lite import signals
from channels_lite.stats import Stats

__all__ = ["Availability"]

logger = logging.getLogger(__name__)

# Looks without a row after which wake-ups are no longer believed at once.  A few are in order:
# one look takes what several wake-ups were for, or another process takes what this one was.
FRUITLESS = 200


class Availability:
    """The last error of looks and claims, and when a message last came."""

    def __init__(
        self, database: str, stats: Stats, fail_receivers: Callable[[Exception], None]
    ) -> None:
        self._database = database
        self._stats = stats
        self._fail_receivers = fail_receivers
        self._last_error = ""
        self._fruitless = 0
        #: Whether it was the clock that asked for the look under way.
        self.is_by_clock = False
        #: When a message last came, by ``time.monotonic()``.
        self.last_message = time.monotonic()

    @property
    def is_woken_in_vain(self) -> bool:
        """Whether many wake-ups have brought nothing: somebody else writes them."""
        return self._fruitless > FRUITLESS

    def has_heard(self) -> None:
        """A message came."""
        self.last_message = time.monotonic()

    def worked(self, *, has_found: bool) -> None:
        """A look or a claim did, and has found something or not."""
        if self._last_error:
            self._last_error = ""
            signals.send(signals.store_available, self._database)
        by_clock, self.is_by_clock = self.is_by_clock, False
        if has_found:
            self.has_heard()
            self._fruitless = 0
            self._stats.found_by_clock += by_clock
        else:
            self._fruitless += 1

    def failed(self, error: BaseException) -> None:
        """A look or a claim did."""
        if isinstance(error, ImproperlyConfigured):
            self._fail_receivers(error)
        elif str(error) != self._last_error:
            logger.warning("looking for messages failed, and goes on: %s", error)
        if not self._last_error:
            signals.send(signals.store_unavailable, self._database, error=error)
        self._last_error = str(error)
