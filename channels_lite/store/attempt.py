"""A work on its way through a store, and how it waits for a lock.

Facts: SQLite's own wait sleeps for longer and longer between two tries, up to 0.1 s.  Beside a
program that writes without a pause the lock is free for some microseconds at a time, and who asks
ten times a second finds that in one case out of thousands.
So: no connection of ours has a busy time-out; what waits is tried again, from its start, in short
steps.  A try takes 20 to 100 us and holds nothing, but a process in which fifty threads wait must
not spend its processor on it: all that wait share one row of steps.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any, Generic

from channels_lite.store import Done, Outcome, T, Work, is_locked

__all__ = ["Attempt", "pause"]

# Seconds between two tries of this process, about: other programs' transactions take less.
STEP = 0.001

# When the last try is due that was asked for, by time.monotonic().  Without a lock: two threads
# that get the same step do no harm.
_last = 0.0


def pause() -> float:
    """Seconds until the next try.  With chance in it, lest two processes try in step for ever."""
    global _last  # noqa: PLW0603 - of the process, as its processor is
    now = time.monotonic()
    _last = max(_last, now) + STEP * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
    return _last - now


@dataclass(eq=False, slots=True)
class Attempt(Generic[T]):
    """What a store was asked for."""

    work: Work[T]
    done: Done[T]
    write: bool
    #: When it is given up, by time.monotonic().
    deadline: float
    #: Where it was submitted; None: it is done whatever becomes of that.
    loop: asyncio.AbstractEventLoop | None = None
    #: Whether it would hold a loop for long.
    is_large: bool = False

    def must_wait(self, outcome: Outcome[T]) -> bool:
        """Whether it is to be tried again."""
        return is_locked(outcome) and time.monotonic() < self.deadline

    def finish(self, outcome: Outcome[T]) -> None:
        """Calls ``done``, once, and lets go of it: the thread that did this may keep us for long,
        and a layer that is dropped must not live on in there.
        """
        done, self.done, self.work, self.loop = self.done, _ignore, _nothing, None
        done(outcome)


def _nothing(execute: object) -> Any:
    """Nothing is left to be done."""


def _ignore(outcome: object) -> None:
    """Nobody is left to be told."""
