"""A layer's life in a process where a relay is configured.

The parts are others: `delivery.relayed` sends, `delivery.jobs` is where plain channels come from,
and `delivery.incoming` is told what comes from elsewhere.  They are made at the first use and not
with the layer, for a token begins with the name of the node, which is a file beside the database;
``manage.py check``, which makes each layer, writes none.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from channels_lite.config import Config
from channels_lite.delivery.claims import Claims
from channels_lite.delivery.incoming import Incoming
from channels_lite.delivery.jobs import Jobs
from channels_lite.delivery.relayed import RelayedSending
from channels_lite.delivery.roster import Roster
from channels_lite.delivery.sending import Sending
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.engine import Engine
from channels_lite.loops import is_ending
from channels_lite.relay import DEADLINE, link_class, settings_of
from channels_lite.relay.connection import Relay
from channels_lite.relay.node import name_of, token_in
from channels_lite.store.django import after_commit_of, transaction_of_caller
from channels_lite.store.sql import FlushMark
from channels_lite.wake.fifo import RelayReport

__all__ = ["RelayedEngine"]

logger = logging.getLogger(__name__)


class RelayedEngine(Engine):
    """The parts, made at first use, and the relay that they share."""

    def __init__(self, *, layer: str, config: Config, **what: Any) -> None:
        self._starting = threading.RLock()
        self._is_started = False
        #: The thread that makes the parts, and asks for those that are not made yet.
        self._starting_thread = 0
        self._relay_settings = settings_of(
            layer, config.relay or "", config.relay_options, config.expiry, config.group_expiry
        )
        self._relay_link = link_class(layer, self._relay_settings)
        super().__init__(config=config, **what)

    # The parts

    def __getattr__(self, name: str) -> Any:
        """Asked for what is not there: the first use of a part."""
        own = threading.get_ident()
        if name.startswith("_") or self._is_started or self._starting_thread == own:
            raise AttributeError(name)
        with self._starting:
            if not self._is_started:
                self._starting_thread = own
                try:
                    self._start_now()
                    self._is_started = True
                finally:
                    self._starting_thread = 0
        return getattr(self, name)

    def _start(self) -> None:
        """At construction it is too early; in a forked child it is time."""
        if self._is_started:
            self._start_now()

    def _start_now(self) -> None:
        path = self.source.path
        try:
            self.node = name_of(path)
        except OSError as error:
            raise ImproperlyConfigured(
                f"the name of this node cannot be made beside {path}, which a relay needs: {error}"
            ) from error
        self.roster = Roster()
        super()._start()

    def _new_token(self) -> str:
        return token_in(self.node)

    def _make_sending(self, **parts: Any) -> Sending:
        settings = self._relay_settings.of(self.token)
        self.relay = Relay(settings, self._relay_link)
        self._relayed = RelayedSending(
            relay=self.relay,
            roster=self.roster,
            capacities=self._capacities,
            serializer=self.serializer,
            **parts,
        )
        return self._relayed

    def _make_claims(self, **parts: Any) -> Claims:
        self._jobs = Jobs(relay=self.relay, capacities=self._capacities, stats=self.stats, **parts)
        self.relay.receiver = Incoming(
            token=self.token,
            roster=self.roster,
            sending=self._relayed,
            jobs=self._jobs,
            arrivals=self.arrivals,
            availability=self.availability,
            clock=self.clock,
            generations=self.generations,
            outgoing=self.outgoing,
            presence=self.presence,
            stats=self.stats,
            decrypt=self._decrypt,
            deliver=self._deliver,
            loops=self._watched,
            sidecar=self._sidecar_path,
            flush=super().flush,
            forget=self._forget_messages,
        )
        return self._jobs

    def _deliver(self) -> None:
        self.reader.deliver()

    def _watched(self) -> Iterable[asyncio.AbstractEventLoop]:
        return self.waiter.loops

    def _sidecar_path(self) -> Path:
        return self.source.sidecar

    def _forget_messages(self) -> None:
        self.mailboxes.clear()
        self.mark()

    def relay_report(self) -> RelayReport:
        """For those who watch; the round trip by steps, so that it is not news each second."""
        relay, stats = self.relay, self.stats
        self.roster.forget_expired(self.clock.now())
        return RelayReport(
            relay.engine,
            relay.fault or relay.lack or relay.reason,
            round(relay.round_trip, 4),
            len(self.roster.groups()),
            stats.relayed,
            stats.relay_received,
            stats.relay_missed,
        )

    # Its life

    async def get_ready(self) -> None:
        """Connects, and waits for it a moment, so that what is sent to the new channel comes."""
        if not self.relay.is_up:
            await self.relay.call(self.relay.wait)

    def arm(self, channel: str, loop: asyncio.AbstractEventLoop, *, is_new_name: bool) -> None:
        """A coroutine begins to wait; what other nodes send it is to come."""
        self.relay.start()
        super().arm(channel, loop, is_new_name=is_new_name)

    async def flush(self) -> None:
        """This node's database, the engine's queues, and every other node is told."""
        await super().flush()
        caller = transaction_of_caller(self.config.database)
        if caller is None:
            await self.relay.call(self.relay.flushes.ask)
        else:
            tell = partial(self.relay.later, self._flush_committed)
            await after_commit_of(caller, self.config.database, tell)

    async def _flush_committed(self) -> None:
        try:
            await self.relay.flushes.ask()
        except StoreUnavailable as error:
            logger.error("other nodes were not told of a flush that is committed: %s", error)

    def flushed(self, path: Path, mark: FlushMark) -> None:
        """The database at ``path`` was flushed, in this process."""
        if self._is_started:
            super().flushed(path, mark)
            if self.source.path == path:
                self.roster.replace(())

    async def close_in_order(self) -> None:
        """Returns when all is given back, the connection too."""
        await super().close_in_order()
        if not is_ending():
            await asyncio.to_thread(self.relay.wait_for_end)

    def close(self, done: Callable[[], object] = lambda: None) -> None:
        """Gives back what was claimed, and ends the connection, unless somebody still waits."""
        super().close(done)
        if not self.mailboxes.loops():
            self.relay.stop()

    def leave(self) -> None:
        """At exit: what was sent has to go out."""
        if not self._is_started:
            self.store.close()
            return
        super().leave()
        self.relay.stop(1.5 * DEADLINE)

    def drop(self) -> None:
        """Nobody uses the layer any more."""
        if not self._is_started:
            self.store.drop()
            return
        super().drop()
        self.relay.stop()

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """Those on which somebody has received."""
        return self.waiter.loops if self._is_started else ()

    def after_fork(self) -> None:
        """In a forked child: the connection is the parent's."""
        if not self._is_started:
            self.store.abandon()
            return
        self.relay.abandon()
        super().after_fork()
