"""RECEIVE, up to the mailbox: looks for rows, takes in frames, and acknowledges rows.

A look only reads, so it waits for no lock.  `claims` takes rows of plain channels.

Thread: looks begin on a loop, and complete on a thread of the store.  Several loops may call
everything here at the same time.  A flag that names a loop is valid only while that loop runs,
because a closed loop sends no notice.
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

# Seconds between reading rows and deleting them.  They are deleted earlier if there are this many
# rows, or a few percent of a channel's capacity, because their sender counts them until then.
ACKNOWLEDGE_AFTER = 0.05
ACKNOWLEDGE_ROWS = 1000
ACKNOWLEDGE_SHARE = 16


class Socket(Protocol):
    """The socket through which other processes hand messages over."""

    def frames(self, limit: int | None = None) -> list[Frame]:
        """See `wake.Waiter.frames`."""

    def stop_frames(self) -> None:
        """Stops reading it."""

    def go_on_with_frames(self) -> None:
        """Reads it again."""


class Reader:
    """Owns the state of looks: the current one, and requests for another.  One lock."""

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
        #: Tells senders which channels are full, and which no longer are.
        self._mark = mark
        self._acknowledge_rows = min(
            ACKNOWLEDGE_ROWS, (smallest_capacity or ACKNOWLEDGE_ROWS) // ACKNOWLEDGE_SHARE
        )
        self._is_in_memory = is_in_memory
        self._lock = threading.Lock()
        self._looking: asyncio.AbstractEventLoop | None = None
        #: Loops that asked for another look during the current one.
        self._look_again: set[asyncio.AbstractEventLoop] = set()
        #: The number of current looks; more than one if a loop was closed during its look.
        self._looks = 0
        self._acknowledging: asyncio.AbstractEventLoop | None = None
        self._has_stopped_frames = False
        self.is_open = False

    def look(self) -> None:
        """Reads rows that wait for this process.  Call it on a running loop.  One at a time."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self.is_open:
                return  # this look was requested before it was closed
            # A stopped loop may never continue.
            if self._looking is not None and self._looking.is_running():
                self._look_again.add(loop)
                return
            self._looking = loop
            self._looks += 1
        mark, held = self._arrivals.mark()
        asked = self._cursors.ask(self._clock.now_or_origin(), held, deletes=self._is_in_memory)
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
        """Handles the outcome of a look.  True: look again."""
        self._stats.looks += 1
        if outcome.error is not None:
            self._stats.failed_looks += 1
            if self._arrivals.holds:
                # More and more frames would be held.  Let the senders' sockets fill up instead.
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
        """Takes in frames.  Called on a loop when the socket is readable."""
        is_done = self._arrivals.take_frames(self.socket.frames)
        self._availability.has_heard()
        if self._mailboxes.changed:
            self._mark()
        if is_done:
            return
        if self._arrivals.are_waiting:
            self._deliver_later()
        if self._arrivals.holds:
            self.look()

    def deliver(self) -> None:
        """Puts messages into the mailboxes; on a loop, one slice in each iteration."""
        if running_loop() is not None:
            if self._arrivals.deliver():
                self._deliver_later()
        else:  # a thread of the store, which blocks no loop
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
        """Acknowledges what this process has read.  Then calls ``done``."""
        self._acknowledging = None
        through = self._cursors.to_acknowledge()
        if not through.read:
            done()
            return
        work = partial(sql.acknowledge, through=through)
        # To delete large rows, SQLite reads and writes each of their pages.
        self._store.transact(work, partial(self._acknowledged, through, done), size=through.size)

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
