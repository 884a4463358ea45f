"""Two connections to Redis: one for requests, and one on which messages come.

Memberships of plain channels are a sorted set for each group, ordered by their expiry.

Thread: the relay's loop.  The connections and the jobs have their own state; this class has that of
the questions to other processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError

from channels_lite.errors import StoreUnavailable
from channels_lite.history import Limit, Limits
from channels_lite.loops import fail
from channels_lite.relay import Listener, Page, Published, Recent, Settings
from channels_lite.relay.redis.client import STEP, connect, field_of, pool_of, say
from channels_lite.relay.redis.feed import Feed
from channels_lite.relay.redis.histories import AFTER, APPEND, CHANGED, Histories
from channels_lite.relay.redis.jobs import Jobs
from channels_lite.relay.redis.pipeline import Pipeline
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
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
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

    async def open(self, subjects: Iterable[str]) -> None:
        """Both, and everything subscribed to."""
        asking = await self._connect()
        info = await say(asking, "INFO", "server")
        version = field_of(info, "valkey_version") or field_of(info, "redis_version") or "0"
        self.engine = f"{'Valkey' if b'valkey_version' in info else 'Redis'} {version}"
        if int(version.partition(".")[0]) < OLDEST:
            raise StoreUnavailable(f"it is {self.engine}; take 5 or later")
        for script in SCRIPTS:
            await say(asking, "SCRIPT", "LOAD", script)
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

    def abandon(self) -> None:
        """In a forked child."""
        for connection in self._connections:
            let_go(getattr(connection, "_writer", None))

    async def ping(self) -> None:
        """On both."""
        await self._pipeline.ask("PING")
        await self._feed.ping()
        await self._jobs.renew()

    # Subjects

    def _came(self, subject: str, payload: bytes) -> None:
        if subject == self._jobs.subject:
            self._jobs.take(payload)
        elif subject.startswith(self._replies):
            with suppress(Unreadable):
                ask = decode_ask(payload)
                future = self._asked.pop(ask.number, None)
                if future is not None and not future.done():
                    future.set_result(ask.payload)
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
        """In one piece with the question which plain channels the groups have."""
        sent = [self._pipeline.ask("PUBLISH", subject, payload) for subject, payload in parcels]
        asked = {group: self._pipeline.run(MEMBERS, [self._group(group)]) for group in groups}
        self._pipeline.write()
        answers = [*sent, *asked.values()]
        published: Published = self.lost.get_loop().create_future()
        answers[-1].add_done_callback(lambda _: self._published(published, answers, asked))
        return published

    def _published(
        self,
        published: Published,
        answers: list[asyncio.Future[Any]],
        asked: dict[str, asyncio.Future[Any]],
    ) -> None:
        """The last answer has come, and so have the others."""
        errors = [error for each in answers if (error := each.exception()) is not None]
        if errors:
            fail(published, errors[0])
        elif not published.done():
            members = {group: found.result() for group, found in asked.items()}
            published.set_result(
                {group: [each.decode() for each in found] for group, found in members.items()}
            )

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
        """At the end."""
        return await self._jobs.put(channel, data, ttl, capacity, is_first=False)

    async def put_back(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """To the front, over the capacity if need be."""
        return await self._jobs.put(channel, data, ttl, None, is_first=True)

    def want(self, channel: str, capacity: int | None, total: int) -> asyncio.Future[Any] | None:
        """See `Link`."""
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
