"""A layer's life in a process with a relay.

Three parts differ: `delivery.relayed` sends, `delivery.jobs` receives from plain channels, and
`delivery.incoming` receives from other nodes.  The parts are made at the first use, and not with
the layer: a token starts with the name of the node, which is a file beside the database, and
``manage.py check``, which makes each layer, must write no file.
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
    """Makes the parts at first use, and owns the relay that they share."""

    def __init__(self, *, layer: str, config: Config, **what: Any) -> None:
        self._starting = threading.RLock()
        self._is_started = False
        #: The thread that makes the parts, and must not wait for itself.
        self._starting_thread = 0
        self._relay_settings = settings_of(
            layer, config.relay or "", config.relay_options, config.expiry, config.group_expiry
        )
        self._relay_link = link_class(layer, self._relay_settings)
        super().__init__(config=config, **what)

    # The parts

    def __getattr__(self, name: str) -> Any:
        """Makes the parts when the first one is used."""
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
        """Does nothing at construction.  In a forked child, makes the parts again."""
        if self._is_started:
            self._start_now()

    def _start_now(self) -> None:
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
            loops=self._receiving_loops,
            keep_time=self._keep_relay_time,
            sidecar=self._sidecar_path,
            flush=super().flush,
            forget=self._forget_messages,
        )
        return self._jobs

    def _deliver(self) -> None:
        self.reader.deliver()

    def _keep_relay_time(self) -> None:
        if self.mailboxes.needs_clock:
            self._keep_time()

    def _receiving_loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        return list(self.waiter.watched)

    def _sidecar_path(self) -> Path:
        return self.source.sidecar

    def _forget_messages(self) -> None:
        self.mailboxes.clear()
        self.mark()

    def relay_report(self) -> RelayReport:
        """The figures for operators.  The round trip is rounded, so that it changes less often."""
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
        """Waits a moment for the connection, so that messages to the new channel arrive."""
        if not self.relay.is_up:
            await self.relay.call(self.relay.wait)

    def arm(self, channel: str, loop: asyncio.AbstractEventLoop, *, is_new_name: bool) -> None:
        """A coroutine begins to wait, also for messages from other nodes."""
        self.relay.start()
        super().arm(channel, loop, is_new_name=is_new_name)

    async def flush(self) -> None:
        """Flushes this node's database and the engine's queues, and tells all other nodes."""
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
            logger.error("a flush is committed, but other nodes were not told: %s", error)

    def flushed(self, path: Path, mark: FlushMark) -> None:
        """This process has flushed the database at ``path``."""
        if self._is_started:
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
        if not self._is_started:
            self.store.close()
            return
        super().leave()
        self.relay.stop(1.5 * DEADLINE)

    def drop(self) -> None:
        """The layer is no longer used."""
        if not self._is_started:
            self.store.drop()
            return
        super().drop()
        self.relay.stop()

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """The loops on which a coroutine has received."""
        return self._receiving_loops() if self._is_started else ()

    def after_fork(self) -> None:
        """In a forked child, abandons the parent's connection."""
        if not self._is_started:
            self.store.abandon()
            return
        self.relay.abandon()
        super().after_fork()
