"""What a process does at each interval: it looks for rows without a wake-up, cleans up, and takes
its turn at the upkeep of the tables.

Thread: that of a loop that receives, or that has put messages into memory; several loops may tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from channels_lite.clock import Clock
from channels_lite.config import Config
from channels_lite.delivery.availability import Availability
from channels_lite.delivery.claims import Claims
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.frames import FrameSender
from channels_lite.delivery.histories import Histories
from channels_lite.delivery.plain import AllMailboxes
from channels_lite.delivery.reader import Reader
from channels_lite.delivery.stats import Stats
from channels_lite.history import Limits
from channels_lite.loops import soon
from channels_lite.store import Outcome, Store
from channels_lite.store.upkeep import KEPT, Sweep
from channels_lite.wake.fifo import RelayReport
from channels_lite.wake.presence import Presence

__all__ = ["Sweeper"]

# Seconds between two checks of all mailboxes for expired messages, and the number of mailboxes
# checked in one iteration of the loop.
TIDY_EVERY = 1.0
TIDY_SLICE = 500
# The number of mailboxes checked when a new one is created.  This limits their number even where no
# loop lives until its timer runs, as under `async_to_sync`.
KEEP_SLICE = 16
# Seconds between two sweeps of the tables, and between two steps of one.
SWEEP_EVERY = 10.0
SWEEP_PAUSE = 0.05


class Sweeper:
    """Owns the times of the next work, and the loop of the current sweep.

    It needs no lock: if two loops do the same work at the same time, this is harmless.
    """

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        presence: Presence | None,
        clock: Clock,
        stats: Stats,
        mailboxes: AllMailboxes,
        cursors: Cursors,
        reader: Reader,
        claims: Claims,
        histories: Histories | None,
        limits: Limits | None,
        frames: FrameSender,
        availability: Availability,
        mark: Callable[[], None],
        tidy: Callable[[set[str]], bool],
        keep_time: Callable[[asyncio.AbstractEventLoop], None],
        go_on: Callable[[], None],
        relay: Callable[[], RelayReport | None],
        is_in_memory: bool,
    ) -> None:
        self._config = config
        self._store = store
        self._presence = presence
        self._clock = clock
        self._stats = stats
        self._mailboxes = mailboxes
        self._cursors = cursors
        self._reader = reader
        self._claims = claims
        #: What groups keep in their histories; None: no group has one.
        self._histories = histories
        self._limits = limits
        self._frames = frames
        self._availability = availability
        #: Tells senders which channels are full.
        self._mark = mark
        #: Keeps this process reachable.  If something was created again, its loops must watch it.
        self._tidy_waiter = tidy
        self._go_on = go_on
        #: The state of the relay, for the report.
        self._relay = relay
        #: Starts the timer that calls `tick` on a loop.
        self._start_clock = keep_time
        self._is_in_memory = is_in_memory
        self._sweeping: asyncio.AbstractEventLoop | None = None
        self._next_sweep = self._next_tidy = 0.0

    def tick(self) -> bool:
        """Looks, and cleans up.  False if no coroutine waits for messages."""
        context = self._mailboxes.context_of_a_receiver()
        self._availability.is_by_clock = True
        if context is None:
            self.look()
        else:
            # In a receiver's context, where the code finds the receiver's connection.  In Django's
            # TestCase, the rows are in a transaction that no other connection sees.
            context.copy().run(self.look)
        self._reader.deliver()
        if time.monotonic() >= self._next_tidy:
            self._next_tidy = time.monotonic() + TIDY_EVERY
            self._tidy()
        self._reader.acknowledge()
        self._claims.requeue()
        self.sweep()
        # This comes before the check for messages: the next message put starts the timer again.
        self._mailboxes.needs_clock = True
        # While messages wait in memory, the process must notice a flush by another process.
        return context is not None or not self._mailboxes.is_empty

    def keep_time(self) -> None:
        """Lets messages in memory expire, and notices flushes, while no coroutine waits."""
        self._mailboxes.needs_clock = False
        self._reader.is_open = True
        self._start_clock(asyncio.get_running_loop())
        self._mailboxes.sweep(self._clock.now(), KEEP_SLICE)

    def look(self) -> None:
        """Looks for rows of all channels of this process."""
        if self._histories is not None:
            self._histories.look()
            self._histories.feed_all()
        self._reader.look()
        self._claims.ask(self._mailboxes.plain_channels())

    def _tidy(self) -> None:
        self._sweep_mailboxes(asyncio.get_running_loop())
        self._store.tidy()
        self._frames.forget_stale()
        if self._histories is not None:
            self._histories.tidy()
        if self._tidy_waiter(self._mailboxes.plain_channels()):
            self._go_on()
        if self._presence is not None:
            self._presence.keep_marks(set(self._mailboxes.full))
            self._presence.report(self._stats.received, self._stats.full, self._relay())

    def _sweep_mailboxes(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._mailboxes.sweep(self._clock.now(), TIDY_SLICE):
            soon(loop, partial(self._sweep_mailboxes, loop))
        else:
            self._cursors.keep(self._mailboxes.names)
        if self._mailboxes.changed:
            self._mark()

    def sweep(self) -> None:
        """Begins a sweep of the tables, if it is due and this process's turn."""
        is_sweeping = self._sweeping is not None and self._sweeping.is_running()
        is_due = time.monotonic() >= self._next_sweep
        if not self._reader.is_open or is_sweeping or not is_due:
            return
        self._next_sweep = time.monotonic() + SWEEP_EVERY
        stale = set() if self._presence is None else self._presence.stale(SWEEP_EVERY)
        if stale is not None and (stale or self._config.auto_trim):
            self._sweeping = asyncio.get_running_loop()
            kept = None if self._is_in_memory else KEPT
            limits = self._limits if self._config.auto_trim else None
            self._step(self._sweeping, Sweep(stale, kept, limits))

    def _step(self, loop: asyncio.AbstractEventLoop, sweep: Sweep) -> None:
        def done(outcome: Outcome[Any]) -> None:
            self._stats.trimmed += sweep.take_trimmed()
            if outcome.error is None and not sweep.is_done:
                soon(loop, partial(loop.call_later, SWEEP_PAUSE, self._step, loop, sweep))
                return
            self._sweeping = None
            self._next_sweep = time.monotonic() + SWEEP_EVERY
            if outcome.error is None:  # else the next sweep does it
                if self._presence is not None:
                    self._presence.remove_stale(sweep.stale)
                if sweep.gave_back:
                    self._store.checkpoint()

        if not self._reader.is_open:
            self._sweeping = None
            return
        now = self._clock.now() if self._config.auto_trim else 0.0
        self._store.submit(partial(sweep.step, now=now), done)
