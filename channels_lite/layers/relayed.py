"""A layer's life in a process with a relay.

Three parts differ: `delivery.relayed` sends, `delivery.jobs` receives from plain channels, and
`delivery.incoming` receives from other nodes.  A token starts with the name of the node, which is a
file beside the database.  ``manage.py check``, which makes each layer, must write no file.  So an
engine with a relay is made at the first use of its layer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from channels_lite.config import Config
from channels_lite.delivery.capacity import Capacities
from channels_lite.delivery.claims import Claims
from channels_lite.delivery.departures import Departures
from channels_lite.delivery.imports import Imports
from channels_lite.delivery.incoming import Incoming
from channels_lite.delivery.jobs import Jobs
from channels_lite.delivery.log import Log
from channels_lite.delivery.neighbours import Neighbours
from channels_lite.delivery.relayed import RelayedSending
from channels_lite.delivery.relayed_log import RelayedLog
from channels_lite.delivery.roster import Roster
from channels_lite.delivery.sending import Sending
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.engine import Engine
from channels_lite.loops import is_ending, running_loop, soon
from channels_lite.relay import Link, Settings, link_class, settings_of
from channels_lite.relay.node import name_of, token_in
from channels_lite.relay.relay import Relay
from channels_lite.store import upkeep
from channels_lite.store.django import after_commit_of, transaction_of_caller
from channels_lite.store.sql import FlushMark
from channels_lite.wake.fifo import RelayReport

__all__ = ["RelayedEngine", "relayed"]

logger = logging.getLogger(__name__)

# The number of messages from other nodes that may wait for a busy loop.  Further ones go into the
# mailboxes, which have a capacity, at once.
MANY = 1000


class RelayedEngine(Engine):
    """Owns the relay that the parts share."""

    def __init__(
        self, *, settings: Settings, link: type[Link], capacities: Capacities, **what: Any
    ) -> None:
        self._relay_settings = settings
        self._relay_link = link
        super().__init__(capacities=capacities, **what)

    # The parts

    def _start(self) -> None:
        path = self.source.path
        try:
            self.node = name_of(path)
        except OSError as error:
            raise ImproperlyConfigured(
                f"a relay needs a file beside {path}, which cannot be created: {error}"
            ) from error
        self.roster = Roster()
        super()._start()

    def _new_token(self) -> str:
        return token_in(self.node)

    def _make_sending(self, **parts: Any) -> Sending:
        self.relay = Relay(self._relay_settings.of(self.token), self._relay_link)
        self._departures = Departures(
            self.relay, self.config.database, self._capacities, self.missed, self.stats
        )
        self._relayed = RelayedSending(
            relay=self.relay,
            roster=self.roster,
            departures=self._departures,
            serializer=self.serializer,
            **parts,
        )
        return self._relayed

    def _make_log(self, **parts: Any) -> Log:
        self._relayed.entered = self.forget_membership
        return RelayedLog(
            relay=self.relay, departures=self._departures, sending=self._relayed, **parts
        )

    def _make_claims(self, **parts: Any) -> Claims:
        jobs = Jobs(relay=self.relay, capacities=self._capacities, **parts)
        imports = Imports(
            token=self.token,
            roster=self.roster,
            arrivals=self.arrivals,
            availability=self.availability,
            clock=self.clock,
            stats=self.stats,
            decrypt=self._decrypt,
            deliver=self._deliver,
        )
        self.relay.receiver = Incoming(
            token=self.token,
            roster=self.roster,
            imports=imports,
            jobs=jobs,
            sending=self._relayed,
            neighbours=Neighbours(self.presence, lambda: self.source.sidecar),
            table=self,
            appended=self._look_at_histories,
            came_back=self._came_back,
        )
        return jobs

    def _deliver(self, waiting: int) -> None:
        """Delivers on a receiving loop, if there is one, so that it calls waiting coroutines."""
        loops = [loop for loop in list(self.waiter.watched) if loop.is_running()]
        if running_loop() in loops:
            self.reader.deliver()
        elif waiting >= MANY or not any(soon(loop, self._deliver_here) for loop in loops):
            self.relay.on_loop(self._deliver_on_its_loop)  # this one may be about to end

    def _deliver_on_its_loop(self) -> None:
        self.reader.deliver()
        if not self.mailboxes.loops() and self.mailboxes.needs_clock:
            self._keep_time()

    def _deliver_here(self) -> None:
        """From now on, this loop reads itself what other nodes send."""
        self.relay.connection.use_here()
        self.reader.deliver()

    def forget_membership(self, group: str, channel: str, but: int) -> None:
        """See `Engine.forget_membership`.  Also looks, because it may be another loop's."""
        super().forget_membership(group, channel, but)
        self._look_at_histories()

    def _look_at_histories(self) -> None:
        """Looks on a receiving loop; a stopped one looks when it runs again."""
        if self.histories is not None:
            self._on_receiving_loop(self.histories.look)

    def _came_back(self) -> None:
        self._look_at_histories()
        if self.histories is not None:
            self._on_receiving_loop(self.histories.feed_all)

    def _on_receiving_loop(self, callback: Callable[[], None]) -> None:
        loops = sorted(self.waiter.watched, key=lambda loop: not loop.is_running())
        any(soon(loop, callback) for loop in loops)

    # The table, for what other processes ask.  See `delivery.incoming.Table`.

    async def memberships(self) -> Iterable[tuple[str, str, float]]:
        """Reads those of this process."""
        now = self.clock.now() or await self.generations.ask()
        return await self.outgoing.read(partial(upkeep.memberships_of, token=self.token, now=now))

    async def flush_node(self) -> None:
        """Flushes as without a relay."""
        await super().flush()

    def is_connected(self) -> bool:
        """Whether the layer is in use, and not closed."""
        return self.relay.is_started

    def forget_messages(self) -> None:
        """Empties the mailboxes."""
        self.mailboxes.clear()
        self.mark()

    def relay_report(self) -> RelayReport:
        """The figures for operators.  The round trip is rounded, so that it changes less often."""
        connection, stats = self.relay.connection, self.stats
        self.roster.forget_expired(self.clock.now())
        return RelayReport(
            connection.engine,
            self.relay.envelopes.fault or connection.lack or connection.reason,
            round(connection.round_trip, 4),
            len(self.roster.groups()),
            stats.relayed,
            stats.relay_received,
            stats.relay_missed,
        )

    # Its life

    async def get_ready(self) -> None:
        """Waits a moment for the connection, so that messages to the new channel arrive."""
        if not self.relay.connection.is_up:
            await self.relay.call(self.relay.connection.wait)
        self.relay.connection.use_here()

    def _begin_use(self) -> None:
        """Messages from other nodes come, too, from the first read of the table on."""
        self.relay.start()
        super()._begin_use()

    async def flush(self) -> None:
        """Flushes this node's database and the engine's queues, and tells all other nodes."""
        await super().flush()
        caller = transaction_of_caller(self.config.database)
        if caller is None:
            await self.relay.call(self.relay.flushes.ask)
        else:
            await after_commit_of(caller, self.config.database, self._tell_of_flush)

    def _tell_of_flush(self) -> None:
        with suppress(StoreUnavailable):  # then messages are missed anyway, and counted
            self.relay.committed.add(self._flush_committed)

    async def _flush_committed(self) -> None:
        try:
            await self.relay.flushes.ask()
        except StoreUnavailable as error:
            logger.error("a flush is committed, but other nodes were not told: %s", error)

    def flushed(self, path: Path, mark: FlushMark) -> None:
        """This process has flushed the database at ``path``."""
        super().flushed(path, mark)
        if self.source.path == path:
            self.roster.replace(())

    async def close_in_order(self) -> None:
        """Returns when claims are requeued and the connection is closed."""
        await super().close_in_order()
        if not is_ending():
            await asyncio.to_thread(self.relay.wait_for_end)

    def close(self, done: Callable[[], object] = lambda: None) -> None:
        """Requeues claims, and closes the connection unless a coroutine still waits."""
        super().close(done)
        if not self.mailboxes.loops():
            self.relay.stop()

    def leave(self) -> None:
        """At exit, lets sent messages go out."""
        super().leave()
        self.relay.stop()
        self.relay.wait_for_end()

    def drop(self) -> None:
        """The layer is no longer used."""
        super().drop()
        self.relay.stop()

    def after_fork(self) -> None:
        """In a forked child, abandons the parent's connection."""
        self.relay.abandon()
        super().after_fork()


def relayed(layer: str, config: Config) -> Callable[..., RelayedEngine]:
    """What makes the engine of a layer with a relay.  Raises ``ImproperlyConfigured``."""
    settings = settings_of(
        layer, config.relay or "", config.relay_options, config.expiry, config.group_expiry
    )
    return partial(RelayedEngine, settings=settings, link=link_class(layer, settings))
