"""RECEIVE: whether looks and claims work, and whether they find messages.

Thread: any, without a lock: a count that is off by one does no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.core.exceptions import ImproperlyConfigured

from channels_lite import signals
from channels_lite.clock import ticks
from channels_lite.delivery.stats import Stats

__all__ = ["CLAIMS", "HISTORIES", "LOOKS", "Availability"]

logger = logging.getLogger(__name__)

LOOKS, CLAIMS, HISTORIES = "looks", "claims", "histories"
# Looks without a row after which wake-ups are handled with a delay.  A few are normal: one look
# handles several wake-ups, or another process takes the row.
FRUITLESS = 200


class Availability:
    """The last error of looks and claims, and when a message last arrived."""

    def __init__(
        self, database: str, stats: Stats, fail_receivers: Callable[[Exception], None]
    ) -> None:
        self._database = database
        self._stats = stats
        self._fail_receivers = fail_receivers
        #: The last errors of looks and of claims; one may work while the other fails.
        self._errors: dict[str, str] = {}
        self._fruitless = 0
        #: Whether the current look is a timed one.
        self.is_by_clock = False
        #: When a message last arrived, by `clock.ticks`, which no test freezes.
        self.last_message = ticks()

    @property
    def is_woken_in_vain(self) -> bool:
        """Whether many wake-ups found no row, because another program writes to the FIFO."""
        return self._fruitless > FRUITLESS

    def has_heard(self) -> None:
        """A message arrived."""
        self.last_message = ticks()

    def worked(self, what: str, *, has_found: bool) -> None:
        """``what``, LOOKS, CLAIMS or HISTORIES, worked, and whether it found a message."""
        self.has_no_error(what)
        by_clock, self.is_by_clock = self.is_by_clock, False
        if has_found:
            self.has_heard()
            self._fruitless = 0
            self._stats.found_by_clock += by_clock
        else:
            self._fruitless += 1

    def has_no_error(self, what: str) -> None:
        """``what`` works, or is not needed."""
        if self._errors.pop(what, None) is not None and not self._errors:
            signals.send(signals.store_available, self._database)

    def failed(self, what: str, error: BaseException) -> None:
        """``what`` failed."""
        if isinstance(error, ImproperlyConfigured):
            self._fail_receivers(error)
        elif str(error) not in self._errors.values():
            logger.warning("reading messages failed, and will be retried: %s", error)
        if not self._errors:
            signals.send(signals.store_unavailable, self._database, error=error)
        self._errors[what] = str(error)
