"""RECEIVE, up to the mailbox: looks for rows, takes in frames, and tells the table what was read.

A look only reads, so it waits for no lock; rows of plain channels are for `claims`.

Thread: looks begin on a loop and come back on whichever thread the store has; everything here may
be called from several loops at once.  A flag that names a loop counts only while that loop
runs, for nobody tells us when one is closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from channels_lite.clock import Clock
from channels_lite.delivery.arrivals import Arrivals
from channels_lite.delivery.availability import LOOKS, Availability
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.mailboxes import Mailboxes
from channels_lite.delivery.stats import Stats
from channels_lite.failpoints import reach
from channels_lite.loops import running_loop, soon
from channels_lite.store import Outcome, Store, sql
from channels_lite.wake.datagrams import Frame

__all__ = ["Reader", "Socket"]

# Seconds between reading rows and deleting them, and rows after which that is not waited for: as
# many, or a few percent of what fills a channel, for until then their sender counts them.
ACKNOWLEDGE_AFTER = 0.05
ACKNOWLEDGE_ROWS = 1000
ACKNOWLEDGE_SHARE = 16


class Socket(Protocol):
    """Where other processes hand messages over."""

    def frames(self, limit: int | None = None) -> list[Frame]:
        """See `wake.Waiter.frames`."""

    def stop_frames(self) -> None:
        """Leaves it unread."""

    def go_on_with_frames(self) -> None:
        """Reads it again."""


class Reader:
    """Whether a look is under way, and who asked for another one.  One lock."""

    socket: Socket

    def __init__(
        self,
        *,
        store: Store,
        mailboxes: Mailboxes,
        cursors: Cursors,
        arrivals: Arrivals,
        clock: Clock,
        stats: Stats,
        is_over: Callable[[asyncio.AbstractEventLoop, sql.Look, sql.Table], bool],
        availability: Availability,
        mark: Callable[[], None],
        smallest_capacity: int | None,
        is_in_memory: bool,
    ) -> None:
        self._store = store
        self._mailboxes = mailboxes
        self._cursors = cursors
        self._arrivals = arrivals
        self._clock = clock
        self._stats = stats
        #: Begins another generation of the table; whether to look again.
        self._is_over = is_over
        self._availability = availability
        #: Tells senders which channels are full, and which are so no longer.
        self._mark = mark
        self._acknowledge_rows = min(
            ACKNOWLEDGE_ROWS, (smallest_capacity or ACKNOWLEDGE_ROWS) // ACKNOWLEDGE_SHARE
        )
        self._is_in_memory = is_in_memory
        self._lock = threading.Lock()
        self._looking: asyncio.AbstractEventLoop | None = None
        #: Loops that asked for another look while one was under way.
        self._look_again: set[asyncio.AbstractEventLoop] = set()
        #: Looks under way; more than one if a loop was closed in the midst of its own.
        self._looks = 0
        self._acknowledging: asyncio.AbstractEventLoop | None = None
        self._has_stopped_frames = False
        self.is_open = False

    def look(self) -> None:
        """Reads what waits for this process.  On a running loop; one at a time."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self.is_open:
                return  # a look that was asked for before it was closed
            # One that has stopped may never go on.
            if self._looking is not None and self._looking.is_running():
                self._look_again.add(loop)
                return
            self._looking = loop
            self._looks += 1
        mark = self._arrivals.mark()
        asked = self._cursors.ask(self._clock.now(), deletes=self._is_in_memory)
        done = partial(self._looked, loop, asked, mark)
        self._store.submit(partial(sql.look, asked=asked), done)

    def _looked(
        self,
        loop: asyncio.AbstractEventLoop,
        asked: sql.Look,
        mark: int,
        outcome: Outcome[sql.Looked],
    ) -> None:
        must_look_again = False
        try:
            must_look_again = self._take_in(loop, asked, mark, outcome)
        finally:
            with self._lock:
                self._looks -= 1
                if self._looking is loop:
                    self._looking = None
                again, self._look_again = self._look_again, set()
        for other in again | {loop} if must_look_again else again:
            soon(other, self.look)
        if self._cursors.unacknowledged:
            soon(loop, partial(self._acknowledge_later, loop))

    def _take_in(
        self,
        loop: asyncio.AbstractEventLoop,
        asked: sql.Look,
        mark: int,
        outcome: Outcome[sql.Looked],
    ) -> bool:
        """What became of a look.  True: look again."""
        self._stats.looks += 1
        if outcome.error is not None:
            self._stats.failed_looks += 1
            if self._arrivals.holds:
                # What is held would grow; the senders' sockets fill up instead.
                self._has_stopped_frames = True
                self.socket.stop_frames()
            self._availability.failed(LOOKS, outcome.error)
            return False
        if self._has_stopped_frames:
            self._has_stopped_frames = False
            self.socket.go_on_with_frames()
        looked = outcome.result()
        if looked.is_new:
            return self._is_over(loop, asked, looked.table)
        if self._cursors.flush(looked.table.flushed):
            self._mailboxes.void(looked.table.flushed)
        if looked.rows:
            reach("after_claim")
        has_found = self._arrivals.take_rows(
            partial(self._cursors.fresh, asked, looked),
            self.socket.frames,
            mark if looked.is_all else None,
            asked.committed,
        )
        self.deliver()
        self._availability.worked(LOOKS, has_found=has_found)
        return not looked.is_all or self._arrivals.holds

    def take_frames(self) -> None:
        """What other processes hand over; called on a loop when something was."""
        self._arrivals.take_frames(self.socket.frames)
        self._availability.has_heard()
        if self._mailboxes.changed:
            self._mark()
        if self._arrivals.are_waiting:
            self._deliver_later()
        if self._arrivals.holds:
            self.look()

    def deliver(self) -> None:
        """Puts what was taken in into the mailboxes: on a loop a slice an iteration."""
        if running_loop() is not None:
            if self._arrivals.deliver():
                self._deliver_later()
        else:  # a thread of the store's, which may take its time
            while self._arrivals.deliver():
                pass
        if self._mailboxes.changed:
            self._mark()

    def _deliver_later(self) -> None:
        soon(asyncio.get_running_loop(), self.deliver)

    def _acknowledge_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._cursors.unacknowledged >= self._acknowledge_rows:
            self.acknowledge()
        elif self._acknowledging is None or not self._acknowledging.is_running():
            self._acknowledging = loop
            loop.call_later(ACKNOWLEDGE_AFTER, self.acknowledge)

    def acknowledge(self, done: Callable[[], object] = lambda: None) -> None:
        """Tells the table what this process has read; ``done`` is called then."""
        self._acknowledging = None
        through = self._cursors.to_acknowledge()
        if not through.read:
            done()
            return
        work = partial(sql.acknowledge, through=through)
        self._store.transact(work, partial(self._acknowledged, through, done))

    def _acknowledged(
        self, through: sql.Acknowledgement, done: Callable[[], object], outcome: Outcome[None]
    ) -> None:
        if outcome.error is not None:
            self._cursors.restore(through)
        else:
            with self._lock:
                if not self._looks:
                    self._cursors.acknowledged(through)
        done()
