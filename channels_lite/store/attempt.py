"""A work on its way through a store, and how it waits for a lock.

Facts: SQLite's own wait sleeps for longer and longer between two tries, up to 0.1 s.  Beside a
program that writes without a pause the lock is free for some microseconds at a time, and who asks
ten times a second finds that in one case out of thousands.
So: no connection of ours has a busy time-out; what waits is tried again, from its start, in short
steps, which grow with what it has waited: a lock that was held for a second will not be free within
the next millisecond.  A step takes 20 us, and holds nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any, Generic

from channels_lite.store import Done, Outcome, T, Work, is_locked

__all__ = ["Attempt", "pause_after"]

# Seconds between two tries: a transaction takes less than the first.
SHORTEST, LONGEST = 0.001, 0.02
# Part of what it has waited so far that it waits until the next try.
GROWTH = 1 / 20


def pause_after(waited: float) -> float:
    """Seconds until the next try.  With chance in it, lest two processes try in step for ever."""
    step = min(max(SHORTEST, waited * GROWTH), LONGEST)
    return step * random.uniform(0.3, 1.0)  # noqa: S311 - no secret


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
    began_at: float = field(default_factory=time.monotonic)

    def must_wait(self, outcome: Outcome[T]) -> bool:
        """Whether it is to be tried again."""
        return is_locked(outcome) and time.monotonic() < self.deadline

    def pause(self) -> float:
        """Seconds until the next try."""
        return pause_after(time.monotonic() - self.began_at)

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
