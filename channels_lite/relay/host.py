"""What the parts of a relay know of it, and what it knows of the layer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from channels_lite.relay import Link
from channels_lite.relay.wire import Entry, Flushed, Membership, Subjects

__all__ = ["Host", "Receiver"]

T = TypeVar("T")


class Receiver(Protocol):
    """The layer's side.  Called on the relay's loop; raises nothing."""

    def groups(self) -> set[str]:
        """Those with members in this process."""

    def has_members(self, group: str) -> bool:
        """Whether it is one of them."""

    async def prepare(self) -> bool:
        """Before all are subscribed to.  Whether others can see this process by our database."""

    def take(self, group: str, entries: list[Entry]) -> None:
        """Messages of another node, to a group, or "" to channels of this process."""

    def take_job(self, channel: str, data: bytes, ttl: float) -> None:
        """See `Listener.job_came`."""

    async def change(self, asked: Membership) -> str:
        """Another process lets a channel of ours into a group, or out of it.  What went wrong."""

    async def flushed(self, flush: Flushed) -> None:
        """Somebody has flushed everything."""

    def is_neighbour(self, token: str) -> bool:
        """Whether a process with this token uses our database; True where it cannot be told."""


class Host(Protocol):
    """The relay.  On its loop, but for `soon`."""

    token: str
    node: str
    subjects: Subjects
    receiver: Receiver
    #: None: the engine is away.
    link: Link | None
    #: Seconds of the last round trip.
    round_trip: float

    @property
    def is_up(self) -> bool:
        """Whether what is sent now is on its way."""

    @property
    def is_started(self) -> bool:
        """Whether it was begun to connect."""

    async def wait(self) -> None:
        """Until the first try to connect has ended; for `DEADLINE` at most."""

    async def do(self, verb: Callable[[Link], Awaitable[T]]) -> T:
        """Awaits something of the link.  Raises ``StoreUnavailable`` within `DEADLINE`."""

    def soon(self, callback: Callable[[], object]) -> None:
        """Calls it on the relay's loop, if it can be had.  Any thread."""

    def keep(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs it on the relay's loop."""
