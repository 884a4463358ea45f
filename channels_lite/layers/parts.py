"""The parts of a layer in one process, and their connections.

The path of a message out: layer > `sending` > `local`, or `outgoing` > `outbox` > `frames`, or
`store`, sql.insert > [commit] > csrc/wake.c.  Its path in: waiter > `reader`, or `claims` for plain
channels > `store`, sql.look or sql.claim > `arrivals` > `mailboxes` > `receiving` > layer.

Nothing here refers to the layer: loops and threads reference what they call, and an unused layer
must be garbage-collected.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

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
from channels_lite.delivery.histories import Histories
from channels_lite.delivery.local import Local
from channels_lite.delivery.log import Log
from channels_lite.delivery.missed import Missed
from channels_lite.delivery.outgoing import Outgoing
from channels_lite.delivery.plain import AllMailboxes
from channels_lite.delivery.reader import Reader
from channels_lite.delivery.receiving import Receiving
from channels_lite.delivery.remembered import HistoryMailboxes
from channels_lite.delivery.sending import Sending
from channels_lite.delivery.stats import Stats
from channels_lite.delivery.sweeper import Sweeper
from channels_lite.history import Limits
from channels_lite.loops import call_on
from channels_lite.serializers import BaseMessageSerializer, UndecodableMessage
from channels_lite.store import Store, is_in_memory, sql
from channels_lite.store.connection import Source
from channels_lite.store.django import DjangoStore
from channels_lite.store.occupancy import Occupancy
from channels_lite.wake import Waiter
from channels_lite.wake.fifo import RelayReport
from channels_lite.wake.presence import Presence

__all__ = ["Parts"]

logger = logging.getLogger(__name__)


class Parts:
    """Each part owns its state and its lock.  ``_marking`` guards the marks of full channels."""

    waiter: Waiter

    def __init__(
        self,
        *,
        config: Config,
        capacities: Capacities,
        limits: Limits | None,
        serializer: BaseMessageSerializer,
        store: type[Store],
        default_interval: float,
        make_waiter: Callable[[Parts], Waiter],
    ) -> None:
        self.config = config
        self.serializer = serializer
        self._capacities = capacities
        #: What groups keep in their histories; None: no group has one.
        self.limits = limits
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

    def _start(self) -> None:
        """Makes what belongs to one process; a forked child makes it again."""
        #: Part of every process-local channel's name, and the name of this process's FIFO.
        self.token = self._new_token()
        self.stats = Stats()
        self._marking = threading.Lock()
        #: Whether the layer was used, and whether channels of this process may be in groups.
        self._is_used = self.has_joined = False
        self.presence = (
            None
            if self.is_in_memory
            else Presence(lambda: self.source.sidecar, self.token, self.interval)
        )
        self.missed = Missed(self.config.database, self._capacities, self.stats)
        self.mailboxes = (AllMailboxes if self.limits is None else HistoryMailboxes)(
            self._capacities, self.stats
        )
        self.cursors = Cursors(self.token)
        self.arrivals = Arrivals(
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            clock=self.clock,
            stats=self.stats,
            missed=self.missed,
            decrypt=None if self.serializer.crypter is None else self._decrypt,
        )
        self._start_sending()
        self._start_receiving()
        self.waiter = self.reader.socket = self._make_waiter(self)
        self.receiving.watched = self.waiter.watched

    def _start_sending(self) -> None:
        occupancy = Occupancy(self._capacities.messages)
        self.frames = FrameSender(self.token, self._sidecar, self._capacities, self.clock)
        self.outgoing = Outgoing(
            source=self.source,
            store=self.store,
            serializer=self.serializer,
            clock=self.clock,
            occupancy=occupancy,
            frames=self.frames,
            cursors=self.cursors,
            begin_generation=self._begin_generation,
            nudge=self._nudge,
        )
        self.generations = Generations(
            database=self.config.database,
            store=self.store,
            clock=self.clock,
            cursors=self.cursors,
            mailboxes=self.mailboxes,
            frames=self.frames,
            occupancy=occupancy,
            outgoing=self.outgoing,
            presence=self.presence,
            begin_use=self._begin_use,
            look=self._look,
        )
        local = Local(
            token=self.token,
            clock=self.clock,
            frames=self.frames,
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            arrivals=self.arrivals,
            keep_time=self._keep_time,
        )
        groups = Groups(self.store)
        self.sending = self._make_sending(
            database=self.config.database,
            clock=self.clock,
            generations=self.generations,
            local=local,
            outgoing=self.outgoing,
            groups=groups,
            missed=self.missed,
            stats=self.stats,
        )
        self._groups = groups

    def _start_receiving(self) -> None:
        self.availability = Availability(self.config.database, self.stats, self.mailboxes.fail)
        self.log: Log | None = None
        self.histories: Histories | None = None
        if isinstance(self.mailboxes, HistoryMailboxes):
            self._start_histories(self.mailboxes)
        self.claims = self._make_claims(
            store=self.store,
            mailboxes=self.mailboxes,
            clock=self.clock,
            stats=self.stats,
            decrypt=self._decrypt,
            wake=self.outgoing.wake,
            pass_on=self.outgoing.pass_on,
            availability=self.availability,
            is_in_memory=self.is_in_memory,
        )
        self.reader = Reader(
            store=self.store,
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            arrivals=self.arrivals,
            clock=self.clock,
            stats=self.stats,
            is_over=self.generations.is_over,
            availability=self.availability,
            mark=self.mark,
            smallest_capacity=self._capacities.smallest,
            is_in_memory=self.is_in_memory,
        )
        self.receiving = Receiving(
            token=self.token,
            clock=self.clock,
            generations=self.generations,
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            claims=self.claims,
            arm=self.arm,
            arms_always=self.histories is not None,
            mark=self.mark,
        )
        self.sweeper = Sweeper(
            config=self.config,
            store=self.store,
            presence=self.presence,
            clock=self.clock,
            stats=self.stats,
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            reader=self.reader,
            claims=self.claims,
            histories=self.histories,
            limits=self.limits,
            frames=self.frames,
            availability=self.availability,
            mark=self.mark,
            tidy=self._tidy,
            keep_time=self._start_clock,
            go_on=self.go_on,
            relay=self.relay_report,
            is_in_memory=self.is_in_memory,
        )

    def _start_histories(self, mailboxes: HistoryMailboxes) -> None:
        self.log = self._make_log(
            database=self.config.database,
            limits=self.limits or (lambda _: None),
            store=self.store,
            serializer=self.serializer,
            clock=self.clock,
            generations=self.generations,
            groups=self._groups,
            outgoing=self.outgoing,
            missed=self.missed,
            stats=self.stats,
            is_trimming=self.config.auto_trim,
        )
        self.histories = Histories(
            token=self.token,
            log=self.log,
            mailboxes=mailboxes,
            clock=self.clock,
            stats=self.stats,
            groups=self._groups,
            expiry=self.config.expiry,
            availability=self.availability,
            decrypt=self.serializer.decrypt,
            mark=self.mark,
            is_open=lambda: self.reader.is_open,
            is_in_memory=self.is_in_memory,
        )

    # Overridden by `relayed`.

    def _new_token(self) -> str:
        return uuid.uuid4().hex

    def _make_sending(self, **parts: Any) -> Sending:
        return Sending(**parts)

    def _make_claims(self, **parts: Any) -> Claims:
        return Claims(**parts)

    def _make_log(self, **parts: Any) -> Log:
        return Log(**parts)

    def relay_report(self) -> RelayReport | None:
        """The state of the relay; None if there is no relay."""
        return None

    # Calls of parts that are made later than their caller.

    def _sidecar(self) -> str:
        return os.fsdecode(self.source.sidecar_bytes)

    def _begin_generation(self, batch: sql.Batch) -> None:
        self.generations.begin_by(batch)

    def _nudge(self) -> None:
        self.waiter.nudge()

    def _look(self) -> None:
        self.sweeper.look()

    def _keep_time(self) -> None:
        self.sweeper.keep_time()

    def _start_clock(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiter.keep_time(loop)

    def _tidy(self, channels: set[str]) -> bool:
        return self.waiter.tidy(channels)

    def _begin_use(self) -> None:
        """Called before the first read of the table."""
        self._is_used = True
        self.source.opened()
        if self.presence is not None:
            self.presence.open()

    def _forget_use(self) -> None:
        """The next use reads the table again, and creates this process's name."""
        if not self.is_in_memory:
            self.clock.forget(self.clock.generation)

    def interval(self) -> float:
        """Seconds until the next timed look."""
        interval = self.config.polling_interval or (
            0.1 if self.waiter.reason else self._default_interval
        )
        idle = ticks() - self.availability.last_message
        return interval * (10 if idle > self.config.polling_idle_timeout else 1)

    def woken(self, signs: frozenset[int]) -> None:
        """A process has written a row with one of these signs, or flushed."""
        self.stats.wakes += 1
        if signs & {0, 1}:
            if self.histories is not None:
                # First, and receivers have their turn before the other look.
                self.histories.look()
                asyncio.get_running_loop().call_soon(self.reader.look)
            else:
                self.reader.look()
        if signs != {1}:
            self.claims.woken(signs)

    def has_turn(self, channel: str) -> None:
        """A row may wait on a plain channel, and this process has the turn."""
        self.stats.wakes += 1
        self.claims.ask((channel,))

    def arm(self, channel: str, loop: asyncio.AbstractEventLoop, *, is_new_name: bool) -> None:
        """A coroutine on ``loop`` begins to wait for ``channel``."""
        is_new_name |= self.waiter.watch(loop)
        if self.histories is not None:
            self.histories.serve(channel)
        if "!" in channel and not is_new_name:
            return  # its messages already wake this loop
        if self.presence is not None:
            self.presence.open()
        self.reader.is_open = self.claims.is_open = True
        if "!" not in channel:
            # Rows that arrived while no coroutine waited were left to other processes.
            self.claims.wait(channel, has_turn=self.waiter.listen(channel, loop))
        if is_new_name:
            self.reader.look()
            if self.histories is not None:
                self.histories.look()
            loop.call_soon(self.sweeper.sweep)

    def mark(self) -> None:
        """Tells senders which channels are full, and which no longer are."""
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

    def go_on(self) -> None:
        """Continues on loops where coroutines still wait in ``receive()``."""
        for loop in self.mailboxes.loops():
            call_on(loop, self._watch, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiter.watch(loop)
        self.reader.is_open = self.claims.is_open = True
        for channel in self.mailboxes.plain_channels():
            self.waiter.listen(channel, loop)
        self.sweeper.look()
