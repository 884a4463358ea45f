"""The interfaces between a relay, its parts, and the layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from channels_lite.relay.budget import Budget
from channels_lite.relay.connection import Connection
from channels_lite.relay.wire import Entry, Flushed, Membership, Subjects

__all__ = ["Host", "Receiver"]


class Receiver(Protocol):
    """The layer, as the relay sees it.  Called on the relay's loop, and about what came on the
    thread that has read it.  Raises nothing."""

    def groups(self) -> set[str]:
        """The groups with members in this process."""

    def has_members(self, group: str) -> bool:
        """Whether it is one of them."""

    def take_changed(self) -> set[str]:
        """The groups that became one of them, or no longer are, since the last call."""

    async def prepare(self) -> bool:
        """Called before subscribing.  Whether other processes see this one beside the database."""

    def take(self, group: str, entries: list[Entry]) -> None:
        """Messages from another node to a group, or, with "", to channels of this process."""

    def appended(self) -> None:
        """A history of a group with members here has a new message."""

    def came_back(self) -> None:
        """There is a new connection, before which messages of histories may have come."""

    def take_job(self, channel: str, data: bytes, ttl: float) -> None:
        """See `Listener.job_came`."""

    async def change(self, asked: Membership) -> str:
        """Changes a membership for another process.  Returns the error, or ""."""

    async def flushed(self, flush: Flushed) -> None:
        """Another process has flushed all messages."""

    def is_neighbour(self, token: str) -> bool:
        """Whether a process with this token has a name beside this database."""


class Host(Protocol):
    """The relay, as its parts see it.  Any thread, except where it says "on its loop"."""

    token: str
    node: str
    subjects: Subjects
    receiver: Receiver
    budget: Budget
    #: Used on its loop, and where its link can be used (`Connection.use_here`).
    connection: Connection
    #: Whether it has begun to connect.
    is_started: bool

    def require_thread(self) -> None:
        """Starts.  Raises ``StoreUnavailable`` if it cannot."""

    def soon(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` on the relay's loop, if there is one."""

    def on_loop(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` on the relay's loop, in the order of the calls.  Starts nothing."""

    def near(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` now if the link can be used here, and otherwise soon on its loop."""

    def keep(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs ``coroutine``.  On its loop."""

    def finish(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``coroutine`` before it ends.  On its loop."""
