"""SEND, within this process: straight into the mailbox, without a row or a frame.

What the same process sent there before by a row must not be overtaken: as long as that was not
read, the next message is a row, too.

Thread: the sender's loop.  Nothing is shared between loops but a count, which may be wrong by some.
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
    """Messages handed over within this process, so that no other coroutine had its turn."""

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
        #: Sees that a clock runs while there are messages in memory.
        self._keep_time = keep_time
        self._handed_over = 0

    def takes(self, name: str) -> bool:
        """Whether this process itself receives there, and has read what it was sent before."""
        if not name.endswith(self._names_end):
            return False
        last = self._frames.last_row(name)
        if last > self._cursors.seen(name):
            return False
        if last or self._arrivals.are_waiting:
            self._arrivals.deliver(None)  # what was sent before is on its way into the mailbox
        return True

    async def put(self, channels: list[str], message: Message) -> int:
        """Puts the message into the mailboxes of these.  Returns how many are full and miss it."""
        missed = 0
        while channels:
            now, channels = channels[:SLICE], channels[SLICE:]
            full = self._mailboxes.put(now, message, self._clock.now())
            if full and self._mailboxes.have_receivers(full):
                # Those that wait have been called, and make room when they have their turn.
                await self.yield_loop()
                full = self._mailboxes.put(full, message, self._clock.now())
            missed += len(full)
            if self._mailboxes.needs_clock:
                self._keep_time()
            self._handed_over += len(now)
            if self._handed_over >= PER_ITERATION:
                await self.yield_loop()
        return missed

    async def yield_loop(self) -> None:
        """Lets the other coroutines run: nothing else in handing over does."""
        self._handed_over = 0
        await asyncio.sleep(0)
