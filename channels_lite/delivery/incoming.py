"""RELAY: what other processes send to this one through the engine.

Thread: the relay's loop; messages come on any thread.  The only state is whether the process has
connected before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from django.core.exceptions import ImproperlyConfigured

from channels_lite.delivery.imports import Imports
from channels_lite.delivery.jobs import Jobs
from channels_lite.delivery.neighbours import Neighbours
from channels_lite.delivery.relayed import Begins, RelayedSending
from channels_lite.delivery.roster import Roster
from channels_lite.errors import StoreUnavailable
from channels_lite.names import token_of
from channels_lite.relay.node import node_of
from channels_lite.relay.wire import Flushed, Membership

__all__ = ["Incoming", "Table"]

logger = logging.getLogger(__name__)

# Seconds after a flush until the table is read.  By then it has been flushed.
AFTER_FLUSH = 0.5


class Table(Protocol):
    """This node's database.  All methods raise ``StoreUnavailable``."""

    async def memberships(self) -> Iterable[tuple[str, str, float]]:
        """Those of this process: group, channel, and the time at which it ends."""

    async def flush_node(self) -> None:
        """Deletes everything, for all processes of the node."""

    def is_connected(self) -> bool:
        """Whether the layer is in use, and not closed."""

    def forget_messages(self) -> None:
        """Drops the messages in the memory of this process."""


class Incoming:
    """See `relay.host.Receiver`."""

    def __init__(
        self,
        *,
        token: str,
        roster: Roster,
        imports: Imports,
        jobs: Jobs,
        sending: RelayedSending,
        neighbours: Neighbours,
        table: Table,
        appended: Callable[[], None],
        came_back: Callable[[], None],
    ) -> None:
        self._token = token
        self._roster = roster
        self._sending = sending
        self._neighbours = neighbours
        self._table = table
        self._has_connected = False
        self.appended = appended
        self.came_back = came_back
        self.take = imports.take
        self.take_job = jobs.take
        self.groups = roster.groups
        self.has_members = roster.has_members
        self.take_changed = roster.take_changed
        self.is_neighbour = neighbours.include

    async def prepare(self) -> bool:
        """Reads the roster again, except before the first connection, when it is empty."""
        if self._has_connected:
            await self._read()
        self._has_connected = True
        return self._neighbours.see_us()

    async def _read(self) -> None:
        """Processes of this node may have changed memberships while the engine was unavailable."""
        try:
            self._roster.replace(await self._table.memberships())
        except (StoreUnavailable, ImproperlyConfigured) as error:
            logger.warning("the memberships of this process could not be read again: %s", error)

    async def change(self, asked: Membership) -> str:
        """Changes a membership as if this process had asked for it."""
        if token_of(asked.channel) != self._token:
            return f"{asked.channel} is not a channel of this process"
        try:
            if asked.expiry > 0:
                begins = None if asked.after is None else Begins(asked.after, asked.is_anew)
                await self._sending.join(asked.group, asked.channel, asked.expiry, begins=begins)
            else:
                await self._sending.leave(asked.group, asked.channel)
        except (StoreUnavailable, ImproperlyConfigured) as error:
            return str(error)
        return ""

    async def flushed(self, flush: Flushed) -> None:
        """On each other node, one process flushes the database.  All drop their messages."""
        self._roster.replace(())
        try:
            if flush.node != node_of(self._token) and self._neighbours.are_behind(flush.id):
                await self._table.flush_node()
        except (StoreUnavailable, ImproperlyConfigured) as error:
            logger.error("another node has flushed its messages, but this one could not: %s", error)
        self._table.forget_messages()
        # Keeps a reference to the task.  A task of an earlier flush is no longer needed.
        self._reading = asyncio.get_running_loop().create_task(self._read_later())

    async def _read_later(self) -> None:
        """Keeps channels that join in the meantime."""
        await asyncio.sleep(AFTER_FLUSH)
        if self._table.is_connected():  # otherwise `prepare` does it
            await self._read()
