"""SEND, within this process: straight into the mailbox, without a row or a frame.

It must not overtake an earlier message of the same process that went as a row.  Until that row was
read, the next message is a row, too.

Thread: the sender's loop.  Loops share only a count, which may be slightly wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from channels_lite.clock import Clock
from channels_lite.delivery.arrivals import SLICE, Arrivals
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.frames import FrameSender
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.mailboxes import Mailboxes
from channels_lite.loops import PER_ITERATION

__all__ = ["Local"]


class Local:
    """Hands messages over within this process, and counts them since other coroutines ran."""

    def __init__(
        self,
        *,
        token: str,
        clock: Clock,
        frames: FrameSender,
        mailboxes: Mailboxes,
        cursors: Cursors,
        arrivals: Arrivals,
        keep_time: Callable[[], None],
    ) -> None:
        self._names_end = f"{token}!"
        self._clock = clock
        self._frames = frames
        self._mailboxes = mailboxes
        self._cursors = cursors
        self._arrivals = arrivals
        #: Keeps a timer running while there are messages in memory.
        self._keep_time = keep_time
        self._handed_over = 0
        #: Whether it was so many that the others must have their turn now.
        self.owes_turn = False

    def takes(self, name: str) -> bool:
        """Whether this process receives on ``name``, and has read all its earlier messages."""
        if not name.endswith(self._names_end):
            return False
        last = self._frames.last_row(name)
        if last and last > self._cursors.seen(name):
            return False
        if last or self._arrivals.are_waiting:
            self._arrivals.deliver(None)  # earlier messages are on their way into the mailbox
        return True

    def put(self, channels: list[str], message: Message, now: float) -> list[str]:
        """Puts the message into these mailboxes, at most `SLICE`.  Returns the full channels.

        If there are any, or with ``owes_turn``, await `settle` next.
        """
        self._handed_over += len(channels)
        self.owes_turn = self._handed_over >= PER_ITERATION
        full = self._mailboxes.put_all(((channels, message, True),), now)
        if self._mailboxes.needs_clock:
            self._keep_time()
        return full

    async def settle(self, full: list[str], message: Message) -> int:
        """Lets the receivers of full channels make room.  Returns how many miss the message."""
        if full and self._mailboxes.have_receivers(full):
            # Waiting receivers have been called, and make room when they have their turn.
            await self.yield_loop()
            full = self.put(full, message, self._clock.now_or_origin())
        if self.owes_turn:
            await self.yield_loop()
        return len(full)

    async def put_all(self, channels: list[str], message: Message) -> int:
        """Puts the message into all these mailboxes.  Returns how many are full and miss it."""
        missed = 0
        while channels:
            first, channels = channels[:SLICE], channels[SLICE:]
            full = self.put(first, message, self._clock.now_or_origin())
            missed += await self.settle(full, message)
        return missed

    async def yield_loop(self) -> None:
        """Lets other coroutines run, because handing over otherwise never yields."""
        self._handed_over = 0
        self.owes_turn = False
        await asyncio.sleep(0)
