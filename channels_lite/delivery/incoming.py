"""RELAY: messages from other nodes, and requests from other processes.

A message goes into the mailboxes of its channels.  This happens on a receiving loop, if there is
one, so that a waiting coroutine is called directly.  The mailbox enforces the capacity, as for any
member of a group.

Thread: the relay's loop.  The only state is whether the process has connected before.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from channels_lite.clock import Clock
from channels_lite.delivery.arrivals import Arrivals
from channels_lite.delivery.availability import Availability
from channels_lite.delivery.generation import Generations
from channels_lite.delivery.jobs import Jobs
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.mailboxes import Arrival
from channels_lite.delivery.outgoing import Outgoing
from channels_lite.delivery.relayed import RelayedSending
from channels_lite.delivery.roster import Roster
from channels_lite.delivery.stats import Stats
from channels_lite.errors import StoreUnavailable
from channels_lite.loops import soon
from channels_lite.names import split, token_of
from channels_lite.relay.node import node_of
from channels_lite.relay.wire import Entry, Flushed, Membership
from channels_lite.store import upkeep
from channels_lite.wake.presence import Presence

__all__ = ["Incoming"]

logger = logging.getLogger(__name__)

# The number of messages that may wait for a busy loop.  Further ones go into the mailboxes, which
# have a capacity, at once.
MANY = 1000
# Seconds after a flush until the table is read.  By then it has been flushed.
AFTER_FLUSH = 0.5


class Incoming:
    """See `relay.connection.Receiver`."""

    def __init__(
        self,
        *,
        token: str,
        roster: Roster,
        sending: RelayedSending,
        jobs: Jobs,
        arrivals: Arrivals,
        availability: Availability,
        clock: Clock,
        generations: Generations,
        outgoing: Outgoing,
        presence: Presence | None,
        stats: Stats,
        decrypt: Callable[[bytes], bytes | None],
        deliver: Callable[[], None],
        loops: Callable[[], Iterable[asyncio.AbstractEventLoop]],
        keep_time: Callable[[], None],
        sidecar: Callable[[], Path],
        flush: Callable[[], Awaitable[None]],
        forget: Callable[[], None],
    ) -> None:
        self._token = token
        self._names_end = f"{token}!"
        self._roster = roster
        self._sending = sending
        self._jobs = jobs
        self._arrivals = arrivals
        self._availability = availability
        self._clock = clock
        self._generations = generations
        self._outgoing = outgoing
        self._presence = presence
        self._stats = stats
        self._decrypt = decrypt
        #: Puts the messages of `arrivals` into the mailboxes; and the loops that receive.
        self._deliver = deliver
        self._loops = loops
        #: Keeps a timer running on this loop, for messages that no loop receives.
        self._keep_time = keep_time
        self._sidecar = sidecar
        #: Flushes this node's database; and drops the messages in memory.
        self._flush = flush
        self._forget = forget
        self._has_connected = False

    def groups(self) -> set[str]:
        """See `Roster.groups`."""
        return self._roster.groups()

    def has_members(self, group: str) -> bool:
        """See `Roster.has_members`."""
        return self._roster.has_members(group)

    async def prepare(self) -> bool:
        """Reads the roster again, except before the first connection, when it is empty."""
        if self._has_connected:
            await self._read()
        self._has_connected = True
        return self._presence is not None and self._presence.open()

    async def _read(self) -> None:
        """Processes of this node may have changed memberships while the engine was unavailable."""
        try:
            now = self._clock.now() or await self._generations.ask()
            find = partial(upkeep.memberships_of, token=self._token, now=now)
            self._roster.replace(await self._outgoing.read(find))
        except (StoreUnavailable, ImproperlyConfigured) as error:
            logger.warning("the memberships of this process could not be read again: %s", error)

    # Messages

    def take(self, group: str, entries: list[Entry]) -> None:
        """Delivers messages to the mailboxes."""
        now = self._clock.now_or_origin()
        found: list[Arrival] = []
        for name, data, ttl in entries:
            if group:
                channels = self._roster.channels(name, now)
            else:
                channels = [name] if split(name)[0].endswith(self._names_end) else []
            opened = self._decrypt(data) if channels else None
            if opened is not None:
                found.append((channels, Message(0, opened, now + ttl, now), True))
        if not found:
            return
        self._stats.relay_received += len(found)
        self._availability.has_heard()
        if self._arrivals.add(found) < MANY:
            for loop in list(self._loops()):
                if loop.is_running() and soon(loop, self._deliver):
                    return
        self._deliver()
        if not any(loop.is_running() for loop in self._loops()):
            self._keep_time()

    def take_job(self, channel: str, data: bytes, ttl: float) -> None:
        """Delivers a message of a plain channel."""
        self._jobs.take(channel, data, ttl)

    # Requests of other processes

    async def change(self, asked: Membership) -> str:
        """Changes a membership as if this process had asked for it."""
        if token_of(asked.channel) != self._token:
            return f"{asked.channel} is not a channel of this process"
        try:
            if asked.expiry > 0:
                await self._sending.join(asked.group, asked.channel, asked.expiry)
            else:
                await self._sending.leave(asked.group, asked.channel)
        except (StoreUnavailable, ImproperlyConfigured) as error:
            return str(error)
        return ""

    async def flushed(self, flush: Flushed) -> None:
        """On each other node, one process flushes the database.  All drop their messages."""
        self._roster.replace(())
        try:
            if flush.node != node_of(self._token) and self._is_first(flush.id):
                await self._flush()
        except (StoreUnavailable, ImproperlyConfigured) as error:
            logger.error("another node has flushed its messages, but this one could not: %s", error)
        self._forget()
        self._read_later()

    def _read_later(self) -> None:
        """Keeps channels that join in the meantime."""

        async def read() -> None:
            await asyncio.sleep(AFTER_FLUSH)
            await self._read()

        # Keeps a reference to the task.  A task of an earlier flush is no longer needed.
        self._reading = asyncio.get_running_loop().create_task(read())

    def _is_first(self, flush: str) -> bool:
        """Whether this process handles the flush for its node.  The upkeep removes the mark."""
        mark = self._sidecar() / f".{''.join(filter(str.isalnum, flush))[:32]}"
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        except OSError:
            return True  # no other process could see the mark either
        return True

    def is_neighbour(self, token: str) -> bool:
        """Looks for its FIFO beside this database."""
        presence = self._presence
        if presence is None or presence.fifo is None:
            return True
        return os.path.lexists(self._sidecar() / "".join(filter(str.isalnum, token)))
