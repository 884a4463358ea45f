"""HOOK and WAKE: how a receiver learns of a row.

A waiter calls the layer's ``look`` when there may be something, and its ``tick`` now and then.
``poll`` does so by the clock alone; ``listener`` sleeps on a FIFO that ``csrc`` writes to.  The
sending side, ``hooks``, is the same for all layers: each wakes those who listen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from channels_lite.frames import Frame

__all__ = ["Waiter"]


class Waiter(Protocol):
    """Makes the layer look, on the loops that it watches."""

    #: Why it polls; "" if it does not, for it is woken by a FIFO.
    reason: str

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """From now on looks are made on ``loop``, the running one.  True: they were not before."""

    def listen(self, channel: str) -> None:
        """Makes senders of a plain channel wake this process too."""

    def tidy(self, channels: set[str]) -> None:
        """Called now and then: sees that it can still be reached, and for ``channels`` only."""

    def report(self, received: int, full: int) -> None:
        """Called now and then: tells those who watch how many messages were received so far.

        And how many found a channel full.
        """

    def frames(self, limit: int | None = None) -> list[Frame]:
        """What other processes have handed over since the last call, in the order of sending.

        All of it; or about ``limit``, and the loop is told of the rest in its next iteration.
        """

    def accept_frames(self, *, is_open: bool) -> None:
        """Whether they may; if not, they put rows."""

    def dead(self, every: float) -> set[str] | None:
        """Tokens of processes that were killed.

        None: another living process has asked for them less than ``every`` seconds ago.
        """

    def bury(self, tokens: Collection[str]) -> None:
        """Forgets them: nothing of theirs is left in the tables."""

    def nudge(self) -> None:
        """After a commit of ours: looks, unless the wake-up comes by itself.  Any thread."""

    def close(self) -> None:
        """Stops; ``watch`` starts it again."""

    def abandon(self) -> None:
        """In a forked child: lets go of what is the parent's."""
