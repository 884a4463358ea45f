"""The clock by which messages and memberships expire.

Facts: people and NTP set the system clock.  A jump forward would expire every message and
membership at once, and a jump back would expire none for as long.  The kernel's clock since boot is
never set, continues while the machine sleeps, and is the same for all processes.
So: the system clock counts once, when the database is first used after a boot.  From there, times
follow the kernel's clock, as seconds since 1970.  The table ``channels_lite_boot`` gives the origin
to all processes; if somebody empties it, a file in the sidecar directory does.  The table also
reveals a reboot, which messages do not survive: a power failure may undo the deletion of a
delivered message.

Without such a clock, which only Linux has, times follow the system clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

__all__ = ["Clock", "boot_id", "now", "ticks"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The id of this boot of the machine; "" if there is none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _source() -> Callable[[], float]:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    return time.time


#: Seconds since boot, if there is such a clock; else by the system clock.
ticks = _source()


class Clock:
    """The clock of one layer, and the table's generation that it belongs to (`store.sql.Table`)."""

    def __init__(self) -> None:
        #: When its ticks began, in seconds since 1970; None: it was not read from the table yet.
        self.began_at: float | None = None
        self.generation = 0
        #: The last ``began_at`` read from the table; None: there is none.
        self.last_began_at: float | None = None
        #: The first and the last generation that had it.
        self._first = self._last = 0

    def now(self) -> float:
        """Seconds since 1970; 0 before the table was read: read it, or use `now_or_origin`."""
        began_at = self.began_at  # read once: another thread may forget it
        return 0.0 if began_at is None else began_at + ticks()

    def origin(self, others: float | None = None) -> float:
        """When ticks began, for a generation that this process begins.

        The same as in the generation before, because messages sent meanwhile follow that, and the
        system clock may have been set since.  Otherwise that of ``others``, or the system clock.
        """
        if self.last_began_at is not None:
            return self.last_began_at
        return time.time() - ticks() if others is None else others

    def now_or_origin(self) -> float:
        """Seconds since 1970, even before the table was read, or after its generation has ended.

        Then what is sent goes by the origin, and so does what is received.
        """
        began_at = self.began_at
        return (self.origin() if began_at is None else began_at) + ticks()

    def set(self, began_at: float, generation: int = 0) -> None:
        """Sets the values from the table."""
        global _latest  # noqa: PLW0603 - for rows that are made without a layer
        if began_at != self.last_began_at:
            self._first = generation
        self.began_at = self.last_began_at = began_at
        self.generation = self._last = generation
        _latest = self

    def covers(self, generation: int) -> bool:
        """Whether the times of that generation follow the origin that was read last."""
        return self._first <= generation <= self._last

    def forget(self, generation: int) -> None:
        """Another generation has begun; the next use reads the table again."""
        self.began_at = None
        self.generation = generation


_latest = Clock()


def now() -> float:
    """Seconds since 1970, without a layer: by the clock that was set last, or the system clock."""
    return _latest.now() or time.time()
