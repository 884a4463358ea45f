"""What a layer consists of in one process: how it is put together, forked, closed and dropped.

A message's way out: layer > `outgoing` > `frames`, or `outbox` > `store`, sql.insert > [commit] >
csrc/wake.c.  Its way in: waiter > `reader`, or `claims` for plain channels > `store`, sql.look or
sql.claim > `arrivals` > `mailboxes` > layer.

Nothing here refers to the layer: loops and threads hold what they call, and a layer that nobody
uses any more must be collected, which is when `drop` is called.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from channels_lite import process
from channels_lite.clock import Clock, ticks
from channels_lite.config import Config
from channels_lite.delivery.arrivals import Arrivals
from channels_lite.delivery.availability import Availability
from channels_lite.delivery.capacity import Capacities
from channels_lite.delivery.claims import Claims
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.frames import FrameSender
from channels_lite.delivery.generation import Generations
from channels_lite.delivery.groups import Groups
from channels_lite.delivery.mailboxes import Mailboxes
from channels_lite.delivery.missed import Missed
from channels_lite.delivery.outgoing import Outgoing
from channels_lite.delivery.reader import Reader
from channels_lite.delivery.stats import Stats
from channels_lite.delivery.sweeper import Sweeper
from channels_lite.loops import call_on
from channels_lite.serializers import BaseMessageSerializer, UndecodableMessage
from channels_lite.store import Execute, Outcome, Store, is_in_memory, sql
from channels_lite.store.connection import Source
from channels_lite.store.django import DjangoStore
from channels_lite.store.occupancy import Occupancy
from channels_lite.store.upkeep import leave_all
from channels_lite.wake import Waiter
from channels_lite.wake.presence import Presence

__all__ = ["Engine"]

logger = logging.getLogger(__name__)


class Engine:
    """The parts.  Each owns its state and its lock; `_marking` is for marks of full channels."""

    waiter: Waiter

    def __init__(
        self,
        *,
        config: Config,
        capacities: Capacities,
        serializer: BaseMessageSerializer,
        store: type[Store],
        default_interval: float,
        make_waiter: Callable[[Engine], Waiter],
    ) -> None:
        self.config = config
        self.serializer = serializer
        self._capacities = capacities
        self._default_interval = default_interval
        self._make_waiter = make_waiter
        self.source = Source(config.database)
        self.is_in_memory = is_in_memory(config.database)
        self.clock = Clock()
        if self.is_in_memory:
            self.clock.set(time.time() - ticks())
        self.store: Store = (DjangoStore if self.is_in_memory else store)(
            config.database, config.pool_size
        )
        self._start()
        process.add(self)

    def _start(self) -> None:
        """What belongs to one process: made anew in a forked child."""
        config, store, clock = self.config, self.store, self.clock
        #: Part of every process-local channel's name, and the name of this process's FIFO.
        self.token = uuid.uuid4().hex
        self.stats = Stats()
        self._marking = threading.Lock()
        #: Somebody has used it; channels of this process may be members of groups.
        self._is_used = self.has_joined = False
        self.presence = (
            None
            if self.is_in_memory
            else Presence(lambda: self.source.sidecar, self.token, self.interval)
        )
        self.missed = Missed(config.database, self._capacities, self.stats)
        self.mailboxes = Mailboxes(self._capacities, self.stats)
        self.cursors = Cursors(self.token)
        self.arrivals = Arrivals(
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            clock=clock,
            stats=self.stats,
            missed=self.missed,
            decrypt=None if self.serializer.crypter is None else self._decrypt,
        )
        occupancy = Occupancy(self._capacities.messages)
        self.frames = FrameSender(self.token, self._sidecar, self._capacities, clock)
        self.outgoing = Outgoing(
            source=self.source,
            store=store,
            token=self.token,
            serializer=self.serializer,
            clock=clock,
            occupancy=occupancy,
            frames=self.frames,
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            arrivals=self.arrivals,
            begin_generation=self._begin_generation,
            nudge=self._nudge,
        )
        self.generations = Generations(
            database=config.database,
            store=store,
            clock=clock,
            cursors=self.cursors,
            mailboxes=self.mailboxes,
            frames=self.frames,
            occupancy=occupancy,
            outgoing=self.outgoing,
            are_others_alive=self._begin_use,
            look=self._look,
        )
        self.groups = Groups(store)
        self.availability = Availability(config.database, self.stats, self.mailboxes.fail)
        self.claims = Claims(
            store=store,
            mailboxes=self.mailboxes,
            clock=clock,
            decrypt=self._decrypt,
            wake=self.outgoing.wake,
            availability=self.availability,
            is_in_memory=self.is_in_memory,
        )
        self.reader = Reader(
            store=store,
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            arrivals=self.arrivals,
            clock=clock,
            stats=self.stats,
            is_over=self.generations.is_over,
            availability=self.availability,
            mark=self.mark,
            smallest_capacity=self._capacities.smallest,
            is_in_memory=self.is_in_memory,
        )
        self.sweeper = Sweeper(
            config=config,
            store=store,
            presence=self.presence,
            clock=clock,
            stats=self.stats,
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            reader=self.reader,
            claims=self.claims,
            frames=self.frames,
            availability=self.availability,
            mark=self.mark,
            tidy=self._tidy,
            go_on=self.go_on,
            is_in_memory=self.is_in_memory,
        )
        self.waiter = self.reader.socket = self._make_waiter(self)

    # What the parts call of those that are made after them.

    def _sidecar(self) -> str:
        return os.fsdecode(self.source.sidecar_bytes)

    def _begin_generation(self, generation: int) -> None:
        self.generations.begin(generation)

    def _nudge(self) -> None:
        self.waiter.nudge()

    def _look(self) -> None:
        self.sweeper.look()

    def _tidy(self, channels: set[str]) -> bool:
        return self.waiter.tidy(channels)

    def _begin_use(self) -> bool:
        """Before the table is asked for the first time.  Whether other processes are alive."""
        self._is_used = True
        self.source.opened()
        return self.presence is not None and (
            self.presence.open() and self.presence.are_others_alive()
        )

    def _forget_use(self) -> None:
        """The next use asks the table again, and makes this process's name."""
        if not self.is_in_memory:
            self.clock.forget(self.clock.generation)

    def interval(self) -> float:
        """Seconds until the next look by the clock."""
        interval = self.config.polling_interval or (
            0.1 if self.waiter.reason else self._default_interval
        )
        idle = time.monotonic() - self.availability.last_message
        return interval * (10 if idle > self.config.polling_idle_timeout else 1)

    def woken(self, signs: frozenset[int]) -> None:
        """Somebody has put a row with one of these signs, or flushed."""
        self.stats.wakes += 1
        if signs & {0, 1}:
            self.reader.look()
        if signs != {1}:
            self.claims.woken(signs)

    def arm(self, channel: str, loop: asyncio.AbstractEventLoop, *, is_new_name: bool) -> None:
        """A coroutine on ``loop`` begins to wait for ``channel``."""
        is_new_name |= self.waiter.watch(loop)
        if "!" in channel and not is_new_name:
            return  # what comes for it wakes this loop already
        if self.presence is not None:
            self.presence.open()
        self.reader.is_open = self.claims.is_open = True
        if "!" not in channel:
            # What came while nobody waited was left to other processes.
            self.waiter.listen(channel)
            self.claims.ask((channel,))
        if is_new_name:
            self.reader.look()
        loop.call_soon(self.sweeper.sweep)

    def mark(self) -> None:
        """Tells senders which channels are full, and which are so no longer."""
        if self.presence is None:
            return
        with self._marking:
            for channel in self.mailboxes.take_changed():
                if channel in self.mailboxes.full:
                    self.presence.mark(channel)
                else:
                    self.presence.unmark(channel)

    def _decrypt(self, data: bytes) -> bytes | None:
        try:
            return self.serializer.decrypt(data)
        except UndecodableMessage as error:
            self.stats.undecodable += 1
            logger.error("a message was dropped: %s", error)
            return None

    def flushed(self, path: Path, mark: sql.FlushMark) -> None:
        """The database at ``path`` was flushed, in this process."""
        if self.source.path == path:
            self.cursors.flush(mark)
            self.mailboxes.clear()
            self.mark()

    def go_on(self) -> None:
        """It is used again at once, where coroutines still wait in ``receive()``."""
        for loop in self.mailboxes.loops():
            call_on(loop, self._watch, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiter.watch(loop)
        self.reader.is_open = self.claims.is_open = True
        for channel in self.mailboxes.plain_channels():
            self.waiter.listen(channel)
        self.sweeper.look()

    def close(self, done: Callable[[], object] = lambda: None) -> None:
        """Stops until it is used again; gives back what was claimed and not received.

        ``done`` is called when that is told, or cannot be.
        """
        self._stop()
        self.claims.requeue(partial(self.reader.acknowledge, done))

    def _stop(self) -> None:
        self._forget_use()
        self.reader.is_open = self.claims.is_open = False
        self.waiter.close()
        self.frames.close()

    def leave(self) -> None:
        """At exit: the same, and ends the memberships of this process, if the database is there."""
        # An alias may name another file by now, as when Django's test runner has ended.
        if not self.source.is_same():
            self._stop()
            return
        if self._is_used:
            # What waited for a lock, on a loop that is closed now, comes back to be told.
            self.store.submit(_nothing, _ignore)
        self.close()
        if self._is_used and self.has_joined:
            self.store.submit(partial(leave_all, token=self.token), _ignore)
        self.store.close()

    def drop(self) -> None:
        """The layer was collected without having been closed: gives everything back.

        Waits for nothing.
        """
        # An alias may name another file by now, or a database in memory that is gone.
        if self.is_in_memory or not self.source.is_same():
            self._stop()
        else:
            self.close()
            if self.has_joined:
                self.store.persist(partial(leave_all, token=self.token), _ignore)
        self.store.drop()

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """Those on which somebody has received."""
        return self.waiter.loops

    def pause(self) -> None:
        """Before a fork: returns when no thread of the store is inside SQLite."""
        self.store.pause()

    def resume(self) -> None:
        """After it, in the parent."""
        self.store.resume()

    def after_fork(self) -> None:
        """In a forked child: lets go of what is the parent's, and begins anew."""
        self.frames.abandon()
        self.store.abandon()
        self.waiter.abandon()
        if self.presence is not None:
            self.presence.abandon()
        self._forget_use()
        self._start()


def _nothing(execute: Execute) -> None:
    """Asks nothing of the database."""


def _ignore(outcome: Outcome[Any]) -> None:
    """Memberships end by themselves, later."""
