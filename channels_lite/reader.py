"""RECEIVE, up to the mailbox: looks for rows, releases what was read, and tidies up.

Thread: looks begin on a loop and are delivered on whichever thread the store has; everything here
may be called from several loops at once.  A flag that names a loop counts only while that is open,
for loops are closed without a word.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from channels_lite import signals
from channels_lite.clock import Clock
from channels_lite.config import Config
from channels_lite.failpoints import reach
from channels_lite.frames import Frame
from channels_lite.inbox import Inbox
from channels_lite.loops import TURN, running_loop
from channels_lite.serializers import BaseMessageSerializer, UndecodableMessage
from channels_lite.stats import Stats
from channels_lite.store import Execute, Outcome, Store, sql
from channels_lite.store.upkeep import KEPT, Sweep, leave_all
from channels_lite.wake import Waiter

__all__ = ["Reader"]

logger = logging.getLogger(__name__)

# Seconds between reading rows and deleting them, and rows after which that is not waited for.
# They count against capacity until then: a quarter of it may be used up by them.
RELEASE_AFTER = 0.05
RELEASE_SHARE = 4
# Looks without a row after which wake-ups are no longer believed at once.  A few are in order:
# one look takes what several wake-ups were for, or another process takes what this one was.
FRUITLESS = 200
# Seconds between two looks into every mailbox for what has expired.
TIDY_EVERY = 1.0
# Seconds between two sweeps of the tables, and between two steps of one.
SWEEP_EVERY = 10.0
SWEEP_PAUSE = 0.05


class Reader:
    """What a layer does to fill its inbox."""

    waiter: Waiter

    def __init__(
        self,
        store: Store,
        serializer: BaseMessageSerializer,
        config: Config,
        default_interval: float,
        wake: Callable[[dict[str, int]], None],
        *,
        clock: Clock,
        is_in_memory: bool,
    ) -> None:
        self._store = store
        self._is_in_memory = is_in_memory
        self._serializer = serializer
        self._config = config
        self._default_interval = default_interval
        self._wake = wake
        self._clock = clock

    def start(self, inbox: Inbox, token: str, stats: Stats) -> None:
        """Begins, in this process, whose names are by ``token``; once more in a forked child."""
        self._inbox = inbox
        self._token = token
        self._stats = stats
        #: Whether it was the clock that asked for the look under way.
        self._is_by_clock = False
        self._lock = threading.Lock()
        self._looking: asyncio.AbstractEventLoop | None = None
        #: Who asked for another look while one was under way.
        self._look_again: set[asyncio.AbstractEventLoop] = set()
        #: Looks under way; more than one if a loop was closed in the midst of its own.
        self._looks = 0
        self._frames_lock = threading.Lock()
        #: Frames that come after a row still to be read, and those behind them.
        self._held: list[Frame] = []
        #: How many were held and delivered so far.
        self._let_go = 0
        self._releasing: asyncio.AbstractEventLoop | None = None
        self._last_message = time.monotonic()
        self._last_error = ""
        #: Looks that found no row, since one did.
        self._fruitless = 0
        #: Somebody has received since the last `close`, and at all.
        self._is_open = self._is_used = False
        self._sweeping: asyncio.AbstractEventLoop | None = None
        self._next_sweep = self._next_tidy = 0.0
        #: Whether channels of this process may be members of groups.
        self.has_joined = False

    def interval(self) -> float:
        """Seconds until the next look by the clock."""
        interval = self._config.polling_interval or (
            0.1 if self.waiter.reason else self._default_interval
        )
        idle = time.monotonic() - self._last_message
        return interval * (10 if idle > self._config.polling_idle_timeout else 1)

    def open(self) -> None:
        """From now on looks are made, until `close`."""
        self._is_open = self._is_used = True

    def look(self) -> None:
        """Reads what waits for this process.  On a running loop; one at a time."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._is_open:
                return  # a look that was asked for before it was closed
            # One that has stopped may never go on.
            if self._looking is not None and self._looking.is_running():
                self._look_again.add(loop)
                return
            self._looking = loop
            self._looks += 1
        with self._frames_lock:  # the rows these come after are found by the look, or gone
            held = self._let_go + len(self._held)
        asked = self._inbox.ask(self._clock.now(), deletes=self._is_in_memory)
        done = partial(self._looked, loop, asked, held)
        self._store.submit(partial(sql.look, asked=asked), done, write=False)

    def woken(self) -> None:
        """The same, for somebody committed a row or flushed."""
        self._stats.wakes += 1
        self.look()

    def is_woken_in_vain(self) -> bool:
        """Whether many wake-ups have brought nothing: somebody else writes them."""
        return self._fruitless > FRUITLESS

    def _looked(
        self,
        loop: asyncio.AbstractEventLoop,
        asked: sql.Look,
        held: int,
        outcome: Outcome[sql.Looked],
    ) -> None:
        must_look_again = False
        try:
            must_look_again = self._take_in(asked, held, outcome)
        finally:
            with self._lock:
                self._looks -= 1
                if self._looking is loop:
                    self._looking = None
                again, self._look_again = self._look_again, set()
        for other in again | {loop} if must_look_again else again:
            _soon(other, self.look)
        if self._inbox.unreleased:
            _soon(loop, partial(self.release_later, loop))

    def _take_in(self, asked: sql.Look, held: int, outcome: Outcome[sql.Looked]) -> bool:
        """What became of a look.  True: look again."""
        by_clock, self._is_by_clock = self._is_by_clock, False
        self._stats.looks += 1
        if outcome.error is not None:
            self._stats.failed_looks += 1
            self._inbox.restore(sql.Release(unclaimed=asked.unclaimed))
            self._report(outcome.error)
            return False
        if self._last_error:
            self._last_error = ""
            signals.send(signals.store_available, self._config.database)
        looked = outcome.result()
        is_fruitless = not looked.rows and not looked.claimed
        if not is_fruitless:
            reach("after_claim")
            self._last_message = time.monotonic()
        must_look_again = self._deliver(asked, held, looked)
        self._fruitless = self._fruitless + 1 if is_fruitless else 0
        self._stats.found_by_clock += by_clock and not is_fruitless
        self._wake({name: row.id for name, row in asked.unclaimed})
        return must_look_again

    def _deliver(self, asked: sql.Look, held: int, looked: sql.Looked) -> bool:
        """Takes in rows, and the frames before and between them.  True: look again."""
        with self._frames_lock:
            self._held += self.waiter.frames()
            frames = self._ready(looked.rows, max(0, held - self._let_go) if looked.is_all else 0)
            again = self._inbox.deliver(asked, looked, frames, self._clock.now(), self._decrypt)
            again |= bool(self._held)
        self._after_delivery()
        return again

    def _ready(self, rows: Mapping[str, list[sql.Row]], ready: int = 0) -> list[Frame]:
        """Takes those out of the held frames that come after no row but what was read.

        The first ``ready`` of them do in any case.
        """
        for frame in self._held[ready:]:
            last = rows[frame.name][-1].id if frame.name in rows else 0
            if frame.after > max(last, self._inbox.seen(frame.name)):
                break
            ready += 1
        frames, self._held = self._held[:ready], self._held[ready:]
        self._let_go += len(frames)
        return frames

    def take_frames(self) -> None:
        """What other processes hand over; called on a loop when something was."""
        with self._frames_lock:  # in the order of sending, whichever loop is called
            self._held += self.waiter.frames(TURN)
            reach("after_frames")
            self._inbox.take_frames(self._ready({}), self._clock.now(), self._decrypt)
            must_look = bool(self._held)
        self._last_message = time.monotonic()
        self._after_delivery()
        if must_look:
            self.look()

    def _after_delivery(self) -> None:
        if self._inbox.dropped:
            dropped, self._inbox.dropped = self._inbox.dropped, 0
            self._stats.full += dropped
            logger.info("%d messages of groups were missed by members over capacity", dropped)
        if self._inbox.full:
            self.waiter.accept_frames(is_open=False)

    def _report(self, error: BaseException) -> None:
        if isinstance(error, ImproperlyConfigured):
            self._inbox.fail(error)
        elif str(error) != self._last_error:
            logger.warning("looking for messages failed, and goes on: %s", error)
        if not self._last_error:
            signals.send(signals.store_unavailable, self._config.database, error=error)
        self._last_error = str(error)

    def _decrypt(self, data: bytes) -> bytes | None:
        try:
            return self._serializer.decrypt(data)
        except UndecodableMessage as error:
            self._stats.undecodable += 1
            logger.error("a message was dropped: %s", error)
            return None

    def tick(self) -> bool:
        """Now and then: looks, and tidies up.  False if nobody waits for messages."""
        context = self._inbox.context_of_a_receiver()
        self._is_by_clock = True
        if context is None:
            self.look()
        else:
            # In a receiver's context, in which its code finds its own connection: under Django's
            # TestCase the rows are in a transaction that no other one sees.
            context.copy().run(self.look)
        if time.monotonic() >= self._next_tidy:
            self._next_tidy = time.monotonic() + TIDY_EVERY
            self._inbox.sweep(self._clock.now())
            self._store.tidy()
        self.waiter.tidy(self._inbox.plain_channels())
        self.waiter.report(self._stats.received, self._stats.full)
        self.release()
        self.sweep()
        # While messages wait in memory a flush elsewhere must be heard of.
        return context is not None or not self._inbox.is_empty

    def release_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """Soon, on ``loop``, or now if much has been read."""
        if self._inbox.unreleased * RELEASE_SHARE >= self._config.capacity:
            self.release()
        elif self._releasing is None or not self._releasing.is_running():
            self._releasing = loop
            loop.call_later(RELEASE_AFTER, self.release)

    def release(self, done: Callable[[], object] = lambda: None) -> None:
        """Tells the table what this process is through with; ``done`` is called then."""
        self._releasing = None
        if not self._inbox.full:
            self.waiter.accept_frames(is_open=True)
        if self._is_open and self._inbox.has_unclaimed():
            self.look()
        through = self._inbox.to_release(is_closing=not self._is_open)
        if through:
            self._store.submit(
                partial(sql.release, through=through),
                partial(self._released, through, done),
                write=True,
            )
        else:
            done()

    def _released(
        self, through: sql.Release, done: Callable[[], object], outcome: Outcome[None]
    ) -> None:
        if outcome.error is not None:
            self._inbox.restore(through)
        else:
            with self._lock:
                if not self._looks:
                    self._inbox.released(through)
            self._wake({name: claimed.id for name, claimed in through.unclaimed})
        done()

    def sweep(self) -> None:
        """Begins a sweep of the tables, if it is time and the turn of this process."""
        is_sweeping = self._sweeping is not None and self._sweeping.is_running()
        if not self._is_open or is_sweeping or time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + SWEEP_EVERY
        dead = self.waiter.dead(SWEEP_EVERY)
        if dead is not None and (dead or self._config.auto_trim):
            self._sweeping = asyncio.get_running_loop()
            self._step(self._sweeping, Sweep(dead, None if self._is_in_memory else KEPT))

    def _step(self, loop: asyncio.AbstractEventLoop, sweep: Sweep) -> None:
        def done(outcome: Outcome[int]) -> None:
            if outcome.error is None and not sweep.is_done:
                _soon(loop, partial(loop.call_later, SWEEP_PAUSE, self._step, loop, sweep))
                return
            self._sweeping = None
            self._next_sweep = time.monotonic() + SWEEP_EVERY
            if outcome.error is None:  # else the next sweep does it
                self.waiter.bury(sweep.dead)
                if sweep.gave_back:
                    self._store.checkpoint()

        if not self._is_open:
            self._sweeping = None
            return
        now = self._clock.now() if self._config.auto_trim else 0.0
        self._store.submit(partial(sweep.step, now=now), done, write=False)

    def close(self, done: Callable[[], object] = lambda: None) -> None:
        """Stops until it is opened again; gives back what was claimed and not received.

        ``done`` is called when that is told, or cannot be.
        """
        self._is_open = False
        self.waiter.close()
        self.release(done)

    def leave(self, *, is_there: bool) -> None:
        """At exit: the same, and ends the memberships of this process, if the database is there."""
        if not is_there:
            self._is_open = False
            self.waiter.close()
            return
        if self._is_used:
            # What waited for a lock, on a loop that is closed now, comes back to be told.
            self._store.submit(_nothing, _ignore, write=False)
        self.close()
        if self._is_used and self.has_joined:
            self._store.submit(partial(leave_all, token=self._token), _ignore, write=False)
        self._store.close()


def _nothing(execute: Execute) -> None:
    """Asks nothing of the database."""


def _ignore(outcome: Outcome[Any]) -> None:
    """Memberships end by themselves, later."""


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    try:
        if running_loop() is loop:
            loop.call_soon(callback)
        else:
            loop.call_soon_threadsafe(callback)
    except RuntimeError:
        logger.debug("the loop was closed; the next one goes on")
