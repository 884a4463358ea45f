"""The interfaces between a relay, its parts, and the layer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from channels_lite.relay import Link
from channels_lite.relay.wire import Entry, Flushed, Membership, Subjects

__all__ = ["Host", "Receiver"]

T = TypeVar("T")


class Receiver(Protocol):
    """The layer, as the relay sees it.  Called on the relay's loop; raises nothing."""

    def groups(self) -> set[str]:
        """The groups with members in this process."""

    def has_members(self, group: str) -> bool:
        """Whether it is one of them."""

    async def prepare(self) -> bool:
        """Called before subscribing.  Whether other processes see this one beside the database."""

    def take(self, group: str, entries: list[Entry]) -> None:
        """Messages from another node to a group, or, with "", to channels of this process."""

    def take_job(self, channel: str, data: bytes, ttl: float) -> None:
        """See `Listener.job_came`."""

    async def change(self, asked: Membership) -> str:
        """Changes a membership for another process.  Returns the error, or ""."""

    async def flushed(self, flush: Flushed) -> None:
        """Another process has flushed all messages."""

    def is_neighbour(self, token: str) -> bool:
        """Whether a process with this token uses this database; True if it cannot be known."""


class Host(Protocol):
    """The relay, as its parts see it.  On its loop, except `soon`."""

    token: str
    node: str
    subjects: Subjects
    receiver: Receiver
    #: None if the engine is unavailable.
    link: Link | None
    #: Seconds of the last round trip.
    round_trip: float

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent now."""

    @property
    def is_started(self) -> bool:
        """Whether it has begun to connect."""

    async def wait(self) -> None:
        """Waits for the first attempt to connect, at most `DEADLINE`."""

    async def do(self, verb: Callable[[Link], Awaitable[T]]) -> T:
        """Awaits a method of the link.  Raises ``StoreUnavailable`` within `DEADLINE`."""

    def soon(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` on the relay's loop, if there is one.  Any thread."""

    def keep(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs ``coroutine`` on the relay's loop."""
