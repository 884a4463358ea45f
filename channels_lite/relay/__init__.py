"""RELAY: the same layer across machines, through an existing engine: NATS or Redis.

A *node* is the set of processes that share a database file.  A process's token starts with its
node's name (`node`).  Messages that stay on the node do not come here.  Other messages are encoded
by `wire`, and go to the `relay` of their layer, which runs on one `thread` of the process.  Its
`connection` keeps a `Link` with all subscriptions open, or knows why there is none.

Only a link knows its engine, ``nats`` or ``redis``; the URL's scheme selects it.  Imports neither
`store` nor `wake`, nor the packages above them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, Protocol, TypeAlias

from django.core.exceptions import ImproperlyConfigured

from channels_lite.errors import StoreUnavailable
from channels_lite.history import Limit, Limits
from channels_lite.loops import answer

__all__ = [
    "Head",
    "InDoubt",
    "Link",
    "Listener",
    "Page",
    "Published",
    "Recent",
    "Settings",
    "confirmed",
    "failed",
    "link_class",
    "most_of",
    "outcome",
    "settings_of",
]

#: For each scheme: module, class, the package it needs, and the extra that installs it.
ADAPTERS = {
    **dict.fromkeys(("nats", "tls"), ("nats", "NatsLink", "nats-py", "nats")),
    **dict.fromkeys(
        ("redis", "rediss", "valkey", "valkeys", "unix"), ("redis", "RedisLink", "redis", "redis")
    ),
}

# Messages that a group has in the engine beyond its limit, or an eighth of that.
FLOOD = 1000


#: Done, on any thread, when the engine has what was published; with the plain channels in each
#: group, if any.
Published: TypeAlias = "Future[dict[str, list[str]] | None]"


class InDoubt(StoreUnavailable):
    """The engine has not answered a request, so it is unknown whether it was done."""


@dataclass(frozen=True)
class Settings:
    """The settings of a link."""

    #: As in CONFIG; the options go to the engine's client unchanged.
    url: str
    options: Mapping[str, Any]
    #: The start of all names in the engine, so that projects can share it.
    prefix: str
    #: The number of copies that the engine keeps, if it can; None: the default.
    replicas: int | None
    #: In seconds, as in the layer.
    expiry: float
    group_expiry: float
    token: str = ""

    def of(self, token: str) -> Settings:
        """The same settings for the process with this token."""
        return replace(self, token=token)

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        return re.sub(r"(?<=//)[^/]*@|(?<=,)[^/,]*@", "", self.url)


class Head(NamedTuple):
    """The log of all histories: one order, and one sequence of ids, for all groups."""

    #: A number that differs after a flush, or after a loss of the data.  Ids grow all the same.
    epoch: int
    #: The id of the last message of all groups.
    last: int


class Page(NamedTuple):
    """Messages of one group after an id."""

    head: Head
    #: Each with its id, oldest first.
    rows: list[tuple[int, bytes]]
    #: Whether there were no more.
    is_all: bool
    #: If this is above that id, messages of the group up to this one are gone.
    trimmed: int
    #: The last message of the group; 0: none is known.
    newest: int


class Recent(NamedTuple):
    """Messages of several groups after an id."""

    head: Head
    #: The id up to which these are all.
    through: int
    #: Each with its group and id, in the order of ids.
    rows: list[tuple[str, int, bytes]]
    #: By group, like `Page.trimmed`.
    trimmed: dict[str, int]
    #: The same for all groups.
    floor: int = 0


def most_of(limit: Limit) -> int:
    """The number of messages at which an engine begins to delete the oldest.

    It is above the limit, so that members whose process is busy for a moment miss nothing.
    """
    return limit.messages + max(FLOOD, limit.messages // 8)


class Listener(Protocol):
    """Receives messages, on the thread that has read them.  Raises nothing."""

    def came(self, subject: str, payload: bytes, reply: str) -> None:
        """A publish, or a `Link.ask` that expects an answer at ``reply``."""

    def job_came(self, channel: str, data: bytes, ttl: float) -> None:
        """A requested job, with ``ttl`` seconds to live.  No other process gets it."""


class Link(Protocol):
    """One connection to an engine, from `open` until it is lost.

    It is opened and closed on the relay's loop.  If it `is_shared`, other loops may `publish`,
    `put`, `append` and `want`, too.  When the link is lost, all methods that wait for the engine
    raise ``StoreUnavailable``.  The caller sets the timeout.
    """

    #: Set when the connection is lost, with the reason.
    lost: asyncio.Future[str]
    #: The maximum number of bytes of one publish.
    max_payload: int
    #: The engine's name and version.
    engine: str

    @property
    def is_shared(self) -> bool:
        """Whether any loop may use it.  See `streams`."""

    @property
    def lack(self) -> str:
        """What the engine lacks, and how to fix it; "" if it lacks nothing."""

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Checks settings without connecting.  Raises ``ImproperlyConfigured``."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        """Does not connect."""

    async def open(self, subjects: Iterable[str]) -> None:
        """Connects and subscribes.  When it returns, the engine has confirmed both.

        Raises ``StoreUnavailable``, which says how to fix it.
        """

    def use_here(self) -> None:
        """The running loop reads, too, so that it need not be called by another thread."""

    def publish(self, parcels: Sequence[tuple[str, bytes]], groups: Sequence[str]) -> Published:
        """Publishes to one or more subjects, in this order.  Asks who is in ``groups``."""

    async def ask(self, subject: str, payload: bytes) -> bytes | None:
        """The answer of the process that subscribes to ``subject``; None if there is none."""

    async def answer(self, reply: str, payload: bytes) -> None:
        """Answers an `ask`."""

    async def subscribe(self, subject: str) -> None:
        """When it returns, the engine has confirmed it."""

    async def unsubscribe(self, subject: str) -> None:
        """The reverse."""

    async def put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """Puts a job into a plain channel's queue.  False: it is full."""

    def want(self, channel: str, capacity: int | None, total: int) -> Future[Any] | None:
        """Requests jobs, so that ``total`` are requested, including earlier requests.

        None: it has.  Otherwise, what it returns may fail with ``StoreUnavailable``, on any thread.
        """

    async def put_back(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """Requeues a job that no coroutine waits for.  False: there is no room now."""

    async def join(self, group: str, channel: str, expiry: float) -> None:
        """Makes a plain channel a member for ``expiry`` seconds."""

    async def leave(self, group: str, channel: str) -> None:
        """Ends the membership."""

    async def members(self, group: str) -> list[str]:
        """The plain channels in the group."""

    async def append(
        self, group: str, data: bytes, limit: Limit, told: tuple[str, bytes]
    ) -> list[str]:
        """Adds a message to a history, and then publishes ``told``, a subject and its payload.

        Returns the plain channels in the group.
        """

    async def recent(self, row: int | None, age: float, limit_of: Limits) -> Recent:
        """The first messages after the id ``row`` of all groups with a limit; None: no messages.

        They were appended within the last ``age`` seconds.
        """

    async def after(self, group: str, row: int, most: int, limit: Limit) -> Page:
        """The first messages of ``group`` after this id, at most ``most``; they may be fewer."""

    async def before(self, group: str, most: int, limit: Limit) -> int:
        """An id after which there are the last ``most`` messages of ``group``."""

    async def kept(self) -> tuple[int, int]:
        """The number of messages in all histories, and of their groups."""

    async def clear(self) -> None:
        """Deletes all jobs, all histories, and the memberships of all plain channels."""

    async def ping(self) -> None:
        """Returns when the engine has answered."""

    async def close(self) -> None:
        """Closes the connection.  Earlier publishes are not revoked."""

    def abandon(self) -> None:
        """In a forked child, abandons the parent's sockets, without a word to the engine."""


def settings_of(
    layer: str, url: str, options: Mapping[str, Any] | None, expiry: float, group_expiry: float
) -> Settings:
    """Checks CONFIG.  Raises ``ImproperlyConfigured``, which says how to fix it."""
    options = dict(options or {})
    prefix, replicas = options.pop("prefix", "channels_lite"), options.pop("replicas", None)
    if not isinstance(prefix, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,50}", prefix):
        raise ImproperlyConfigured(
            f"{layer}: CONFIG['relay_options']['prefix'] is {prefix!r}, but must be up to 50 "
            "letters, digits, - and _."
        )
    if replicas is not None and not (isinstance(replicas, int) and 1 <= replicas <= 5):
        raise ImproperlyConfigured(
            f"{layer}: CONFIG['relay_options']['replicas'] is {replicas!r}, but must be 1 to 5."
        )
    scheme = url.partition("://")[0]
    if scheme not in ADAPTERS:
        raise ImproperlyConfigured(
            f"{layer}: CONFIG['relay'] begins with {scheme!r}, but must be a URL that begins with "
            f"one of {', '.join(f'{each}://' for each in ADAPTERS)}."
        )
    return Settings(url, options, prefix, replicas, expiry, group_expiry)


def link_class(layer: str, settings: Settings) -> type[Link]:
    """The adapter for the URL.  Raises ``ImproperlyConfigured`` if its package is missing."""
    module, name, package, extra = ADAPTERS[settings.url.partition("://")[0]]
    try:
        found: type[Link] = getattr(import_module(f"channels_lite.relay.{module}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("channels_lite"):
            raise
        raise ImproperlyConfigured(
            f"{layer}: CONFIG['relay'] needs the package {package}: "
            f"pip install channels-lite[{extra}]"
        ) from None
    try:
        found.check(settings)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{layer}: {error}") from None
    return found


def confirmed(published: Published, members: dict[str, list[str]] | None = None) -> None:
    """The engine has it.  Any thread."""
    with suppress(InvalidStateError):
        published.set_result(members)


def failed(published: Published, error: BaseException) -> None:
    """It has it not, or nobody knows.  Any thread."""
    with suppress(InvalidStateError):
        published.set_exception(error)


def outcome(published: Published) -> asyncio.Future[dict[str, list[str]] | None]:
    """The same for the running loop."""
    future: asyncio.Future[dict[str, list[str]] | None]
    future = asyncio.get_running_loop().create_future()
    published.add_done_callback(partial(_tell, future))
    return future


def _tell(future: asyncio.Future[dict[str, list[str]] | None], published: Published) -> None:
    error = published.exception()
    answer(future, None if error is not None else published.result(), error)
