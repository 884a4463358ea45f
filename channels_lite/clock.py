"""The clock that messages and memberships expire by.

Facts: the wall clock is set, by people and by NTP; a jump forward would expire every message and
membership at once, a jump back none for as long.  The kernel's clock since boot is never set, runs
on while the machine sleeps, and is one for all processes.
So: times are seconds since 1970 as the wall clock had it when the database was first used since
the machine was booted, and go on from there by the kernel's clock; the table
``channels_lite_boot`` says so to all processes, and if it was emptied, a file in the sidecar
directory.  The table also tells a reboot, which no message is meant to survive: a power failure may
undo the deletion of one that was delivered.

Where the system has no such clock (it is Linux's), times are the wall clock's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

__all__ = ["Clock", "boot_id", "now", "ticks"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The name of this boot of the machine; "" where there is none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _source() -> Callable[[], float]:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    return time.time


#: Seconds, by the clock that is never set where there is one.
ticks = _source()


class Clock:
    """One layer's, and the generation of the table that it is of (`store.sql.Table`)."""

    def __init__(self) -> None:
        #: When its ticks began, in seconds since 1970; None: the table was not asked yet.
        self.began_at: float | None = None
        self.generation = 0
        #: The same as the table has last said; None: it never has.
        self.last_began_at: float | None = None

    def now(self) -> float:
        """Seconds since 1970; 0 as long as the table was not asked."""
        return 0.0 if self.began_at is None else self.began_at + ticks()

    def origin(self, others: float | None = None) -> float:
        """When ticks began, for a generation that this process begins.

        As in the one before: what was sent in between goes by that, and the wall clock may have
        been set since.  Else as ``others`` have it; else by the wall clock.
        """
        if self.last_began_at is not None:
            return self.last_began_at
        return time.time() - ticks() if others is None else others

    def set(self, began_at: float, generation: int = 0) -> None:
        """What the table said."""
        global _latest  # noqa: PLW0603 - for rows that are made without a layer
        self.began_at = self.last_began_at = began_at
        self.generation = generation
        _latest = self

    def forget(self, generation: int) -> None:
        """Another generation has begun; the table is to be asked again."""
        self.began_at = None
        self.generation = generation


_latest = Clock()


def now() -> float:
    """Seconds since 1970 for who has no layer at hand: by that which was used first or last."""
    return _latest.now() or time.time()
