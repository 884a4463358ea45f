"""Two connections to Redis: one for requests, and one on which messages come.

Memberships of plain channels are a sorted set for each group, ordered by their expiry.

Thread: the relay's loop, except where a docstring says "any loop" or "any thread".  The connections
and the jobs have their own state; this class has that of the questions to other processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError

from channels_lite.errors import StoreUnavailable
from channels_lite.history import Limit, Limits
from channels_lite.loops import call_on, fail, resolve
from channels_lite.relay import (
    Listener,
    Page,
    Published,
    Recent,
    Settings,
    confirmed,
    failed,
)
from channels_lite.relay.redis.client import STEP, connect, field_of, pool_of, say
from channels_lite.relay.redis.feed import Feed
from channels_lite.relay.redis.histories import AFTER, APPEND, CHANGED, Histories
from channels_lite.relay.redis.jobs import Jobs
from channels_lite.relay.redis.pipeline import Answer, Command, Pipeline, script
from channels_lite.relay.redis.scripts import JOIN, MEMBERS, PUT, TAKE
from channels_lite.relay.sockets import cut, let_go
from channels_lite.relay.wire import Ask, Unreadable, decode_ask, encode_ask

__all__ = ["RedisLink"]

# Bytes of one publish; Redis takes 512 MiB, and every reader has to hold it.
MAX_PAYLOAD = 64 * 1024 * 1024 + 4096
SCRIPTS = PUT, TAKE, JOIN, MEMBERS, APPEND, CHANGED, AFTER
#: The first version whose scripts may ask for the time and then write.
OLDEST = 5


class RedisLink:
    """See `channels_lite.relay.Link`."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        self._token = settings.token
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.max_payload = MAX_PAYLOAD
        self.engine = "Redis"
        self.lack = ""
        self._pool = pool_of(settings)
        self._connections: list[AbstractConnection] = []
        self._pipeline = Pipeline(self._lose)
        self._feed = Feed(self._came, self._lose)
        self._jobs = Jobs(settings, self._pipeline, listener.job_came)
        self._histories = Histories(settings, self._pipeline, self._group)
        #: By the number in it, who has asked another process.
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._last_asked = 0
        self._keys = f"{settings.prefix}:"
        self._replies = f"{settings.prefix}.r."

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Raises ``ImproperlyConfigured`` for what can be known to be wrong without a server."""
        try:
            pool = pool_of(settings)
            if not isinstance(pool, SentinelConnectionPool):
                pool.make_connection()  # type: ignore[no-untyped-call]
        except (TypeError, ValueError, AttributeError, RedisError) as error:
            raise ImproperlyConfigured(
                f"CONFIG['relay'] {settings.shown!r} with CONFIG['relay_options'] "
                f"{sorted(settings.options)} is nothing that redis-py takes: {error}"
            ) from None

    # The connections

    @property
    def is_shared(self) -> bool:
        """See `Link`."""
        return self._pipeline.exchange.is_shared and self._feed.exchange.is_shared

    def use_here(self) -> None:
        """See `Link`.  Any loop."""
        self._pipeline.exchange.use_here()
        self._feed.exchange.use_here()

    async def open(self, subjects: Iterable[str]) -> None:
        """Both, and everything subscribed to."""
        asking = await self._connect()
        info = await say(asking, "INFO", "server")
        version = field_of(info, "valkey_version") or field_of(info, "redis_version") or "0"
        self.engine = f"{'Valkey' if b'valkey_version' in info else 'Redis'} {version}"
        if int(version.partition(".")[0]) < OLDEST:
            raise StoreUnavailable(f"it is {self.engine}; take 5 or later")
        for source in SCRIPTS:
            await say(asking, "SCRIPT", "LOAD", source)
        self._pipeline.exchange.begin(asking)
        self._feed.exchange.begin(await self._connect())
        own = self._jobs.subject, f"{self._replies}{self._token}"
        try:
            await asyncio.wait_for(self._feed.subscribe(*own, *subjects), STEP)
        except (TimeoutError, asyncio.TimeoutError):
            raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from None

    async def _connect(self) -> AbstractConnection:
        connection = await connect(self._pool)
        self._connections.append(connection)
        return connection

    def _lose(self, reason: str) -> None:
        """Any thread."""
        call_on(self._loop, self._lose_here, reason)

    def _lose_here(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
        self._pipeline.fail(reason)
        self._feed.fail(reason)
        while self._asked:
            _, future = self._asked.popitem()
            fail(future, StoreUnavailable(reason))

    async def close(self) -> None:
        """Ends both, whether the server listens or not."""
        self._feed.exchange.end()
        is_clean = not (self.lost.done() or self._pipeline.is_waiting)
        self._lose("it was closed")
        for connection in self._connections:
            if not is_clean:
                cut(getattr(connection, "_writer", None))
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
        self._loop.call_soon(self._close_streams)  # when asyncio has closed them

    def _close_streams(self) -> None:
        self._pipeline.exchange.close()
        self._feed.exchange.close()

    def abandon(self) -> None:
        """In a forked child."""
        self._pipeline.exchange.abandon()
        self._feed.exchange.abandon()
        for connection in self._connections:
            let_go(getattr(connection, "_writer", None))

    async def ping(self) -> None:
        """On both."""
        await self._pipeline.ask("PING")
        await self._feed.ping()
        await self._jobs.renew()

    # Subjects

    def _came(self, subject: str, payload: bytes) -> None:
        """Any thread."""
        if subject == self._jobs.subject:
            self._jobs.take(payload)
        elif subject.startswith(self._replies):
            with suppress(Unreadable):
                ask = decode_ask(payload)
                future = self._asked.pop(ask.number, None)
                if future is not None:
                    resolve(future, ask.payload)
        elif payload[:1] == Ask.MARK:
            with suppress(Unreadable):
                ask = decode_ask(payload[1:])
                self._listener.came(subject, ask.payload, f"{ask.token} {ask.number}")
        else:
            self._listener.came(subject, payload, "")

    async def subscribe(self, subject: str) -> None:
        """Confirmed among what comes."""
        await self._feed.subscribe(subject)

    async def unsubscribe(self, subject: str) -> None:
        """The same."""
        await self._feed.unsubscribe(subject)

    def publish(self, parcels: Sequence[tuple[str, bytes]], groups: Sequence[str]) -> Published:
        """In one piece with the question which plain channels the groups have.  Any loop."""
        publication = _Publication(len(parcels) + len(groups))
        requests: list[tuple[Command, Answer]] = [
            (("PUBLISH", *parcel), publication.sent) for parcel in parcels
        ]
        for group in groups:
            command = script(MEMBERS, [self._group(group)])
            requests.append((command, partial(publication.asked, group)))
        self._pipeline.write(requests)
        return publication.published

    async def ask(self, subject: str, payload: bytes) -> bytes | None:
        """Redis says how many it was told to."""
        self._last_asked += 1
        number = self._last_asked
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            asked = Ask.MARK + encode_ask(Ask(self._token, number, payload))
            if not await self._pipeline.ask("PUBLISH", subject, asked):
                return None
            return await future
        finally:
            self._asked.pop(number, None)

    async def answer(self, reply: str, payload: bytes) -> None:
        """To the process that has asked."""
        token, _, number = reply.partition(" ")
        answer = encode_ask(Ask("", int(number), payload))
        await self._pipeline.ask("PUBLISH", f"{self._replies}{token}", answer)

    # Plain channels

    async def put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """At the end.  Any loop."""
        return await self._jobs.put(channel, data, ttl, capacity, is_first=False)

    async def put_back(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """To the front, over the capacity if need be."""
        return await self._jobs.put(channel, data, ttl, None, is_first=True)

    def want(self, channel: str, capacity: int | None, total: int) -> Published | None:
        """See `Link`.  Any loop."""
        return self._jobs.want(channel, total)

    def _group(self, group: str) -> str:
        return f"{self._keys}g:{group}"

    async def join(self, group: str, channel: str, expiry: float) -> None:
        """By `JOIN`."""
        await self._pipeline.run(JOIN, [self._group(group)], channel, int(expiry * 1000))

    async def leave(self, group: str, channel: str) -> None:
        """Takes it out of the set."""
        await self._pipeline.ask("ZREM", self._group(group), channel)

    async def members(self, group: str) -> list[str]:
        """By `MEMBERS`."""
        found = await self._pipeline.run(MEMBERS, [self._group(group)])
        return sorted(each.decode() for each in found)

    # Histories

    async def append(
        self, group: str, data: bytes, limit: Limit, told: tuple[str, bytes]
    ) -> list[str]:
        """See `Link`."""
        return await self._histories.append(group, data, limit, told)

    async def recent(self, row: int | None, age: float, limit_of: Limits) -> Recent:
        """See `Link`."""
        return await self._histories.recent(row, limit_of)

    async def after(self, group: str, row: int, most: int, limit: Limit) -> Page:
        """See `Link`."""
        return await self._histories.after(group, row, most, limit)

    async def before(self, group: str, most: int, limit: Limit) -> int:
        """See `Link`."""
        return await self._histories.before(group, most)

    async def kept(self) -> tuple[int, int]:
        """See `Link`."""
        return await self._histories.kept()

    async def clear(self) -> None:
        """Deletes the histories, lists of jobs and sets.  Waiting processes keep waiting."""
        await self._histories.clear()
        for kind in ("q", "g", self._histories.KIND):
            cursor = b"0"
            while True:
                pattern = f"{self._keys}{kind}:*"
                scan = "SCAN", cursor, "MATCH", pattern, "COUNT", 1000
                cursor, keys = await self._pipeline.ask(*scan)
                if keys:
                    await self._pipeline.ask("UNLINK", *keys)
                if cursor == b"0":
                    break


class _Publication:
    """The answers to one publish, which come in order, on any thread."""

    def __init__(self, count: int) -> None:
        self.published: Published = Future()
        self._left = count
        self._members: dict[str, list[str]] = {}
        self._error: StoreUnavailable | None = None

    def sent(self, answer: Any, error: StoreUnavailable | None) -> None:
        """It was published, or not."""
        self._error = self._error or error
        self._left -= 1
        if self._left:
            return
        if self._error is not None:
            failed(self.published, self._error)
        else:
            confirmed(self.published, self._members)

    def asked(self, group: str, answer: Any, error: StoreUnavailable | None) -> None:
        """The plain channels in the group."""
        if error is None:
            self._members[group] = [each.decode() for each in answer]
        self.sent(answer, error)
