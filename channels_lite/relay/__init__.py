"""RELAY: the same layer across machines, by an engine that exists: NATS or Redis.

A *node* is the processes that share a database file; a process's token begins with its node's name
(`node`).  What stays on the node never comes here.  What leaves it is put on `wire`, and given to
the `connection` that each layer has to the engine, on the one `thread` of the process that is for
this; it sees to it that there is a `Link`, with all subscriptions, or says why there is none.

A link is what knows an engine, ``nats`` or ``redis``; the URL's scheme chooses.  Nothing else
knows which engine it is.  Imports nothing of `store`, `wake` and what is above.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured

from channels_lite.errors import StoreUnavailable

__all__ = ["DEADLINE", "InDoubt", "Link", "Listener", "Settings", "link_class", "settings_of"]

#: Seconds after which an engine that says nothing counts as away.
DEADLINE = 1.0

#: By scheme: module, class, the package it needs, and the extra that brings it.
ADAPTERS = {
    **dict.fromkeys(("nats", "tls"), ("nats", "NatsLink", "nats-py", "nats")),
    **dict.fromkeys(
        ("redis", "rediss", "valkey", "valkeys", "unix"), ("redis", "RedisLink", "redis", "redis")
    ),
}


class InDoubt(StoreUnavailable):
    """The engine was told, and has not answered; whether it has done it nobody knows."""


@dataclass(frozen=True)
class Settings:
    """What a link is made with."""

    #: As CONFIG has it, and what goes to the engine's client as it is.
    url: str
    options: Mapping[str, Any]
    #: What all names in the engine begin with, so that projects may share one.
    prefix: str
    #: Copies of what the engine keeps, where it can keep several; None: as it sees fit.
    replicas: int | None
    #: Seconds, the layer's.
    expiry: float
    group_expiry: float
    token: str = ""

    def of(self, token: str) -> Settings:
        """The same for the process with this token."""
        return replace(self, token=token)

    @property
    def shown(self) -> str:
        """The URL, without what is secret in it."""
        return re.sub(r"(?<=//)[^/]*@|(?<=,)[^/,]*@", "", self.url)


class Listener(Protocol):
    """Who is told what comes, on the relay's loop.  Raises nothing."""

    def came(self, subject: str, payload: bytes, reply: str) -> None:
        """A publish, or an `Link.ask` that wants an answer at ``reply``."""

    def job_came(self, channel: str, data: bytes, ttl: float) -> None:
        """One of those that were `Link.want`-ed; it is ours alone, and for so many seconds."""


class Link(Protocol):
    """One connection to an engine, from `open` until it is lost; then another one is made.

    On the relay's loop only.  All that waits for the engine raises ``StoreUnavailable`` when the
    link is lost; how long is waited is the caller's business.
    """

    #: Set when the connection is gone, with the reason.
    lost: asyncio.Future[str]
    #: Bytes of one publish at most.
    max_payload: int
    #: The engine's name and version.
    engine: str
    #: What it cannot do, and the mend; "" if there is nothing.
    lack: str

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Connects to nothing.  Raises ``ImproperlyConfigured``."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        """On the relay's loop.  Connects to nothing."""

    async def open(self, subjects: Iterable[str]) -> None:
        """Connects, and subscribes to these; the engine has confirmed it when this returns.

        Raises ``StoreUnavailable``, with the mend.
        """

    def publish(
        self, parcels: Sequence[tuple[str, bytes]], groups: Sequence[str]
    ) -> asyncio.Future[dict[str, list[str]]]:
        """Publishes to subjects, in this order; done when the engine has them.

        With the plain channels that are in each of ``groups``, if there are any.
        """

    async def ask(self, subject: str, payload: bytes) -> bytes | None:
        """The answer of the one who subscribes to ``subject``; None: nobody does."""

    async def answer(self, reply: str, payload: bytes) -> None:
        """To who has asked."""

    async def subscribe(self, subject: str) -> None:
        """The engine has confirmed it when this returns."""

    async def unsubscribe(self, subject: str) -> None:
        """The reverse."""

    async def put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """Puts a job into a plain channel's queue.  False: it is full."""

    async def want(self, channel: str, capacity: int | None, total: int) -> None:
        """So many jobs of a plain channel may come now, with those that were asked for before."""

    async def put_back(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """A job that came and nobody here wants any more.  False: there is no room now."""

    async def join(self, group: str, channel: str, expiry: float) -> None:
        """A plain channel is a member for so many seconds."""

    async def leave(self, group: str, channel: str) -> None:
        """It is none any more."""

    async def members(self, group: str) -> list[str]:
        """The plain channels that are."""

    async def clear(self) -> None:
        """Deletes all jobs, and the memberships of all plain channels."""

    async def ping(self) -> None:
        """Returns when the engine has answered."""

    async def close(self) -> None:
        """Ends it; what was published before is on its way."""

    def abandon(self) -> None:
        """In a forked child: lets go of the parent's sockets, and says nothing to the engine."""


def settings_of(
    layer: str, url: str, options: Mapping[str, Any] | None, expiry: float, group_expiry: float
) -> Settings:
    """Checks what CONFIG says.  Raises ``ImproperlyConfigured`` with the mend."""
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
    """The adapter for the URL.  Raises ``ImproperlyConfigured`` if its package is not there."""
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
