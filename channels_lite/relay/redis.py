"""Redis, or a server with its protocol: pub/sub for publishes, lists for plain channels.

There are two connections.  One is for requests, which are pipelined.  The other is for incoming
messages, which arrive in the order in which Redis received them.

A plain channel is a list of jobs, and a list of the processes that wait for one.  One script puts a
job: it publishes it to the first waiting process that still subscribes, and otherwise appends it to
the list, if there is room.  Another script takes jobs, and adds the process to the waiting list.
Both use Redis's clock.  So the list holds jobs only while no process waits.  A job costs its sender
one round trip, and its worker at most one.

Memberships of plain channels are a sorted set for each group, ordered by their expiry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import (
    RedisError,
    ResponseError,
)

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Listener, Settings
from channels_lite.relay.redis_client import STEP, field_of, pool_of, reason_of
from channels_lite.relay.redis_scripts import JOIN, MEMBERS, PUT, SCRIPTS, TAKE, sha_of
from channels_lite.relay.sockets import cut, let_go
from channels_lite.relay.wire import Ask, Unreadable, decode_ask, encode_ask

__all__ = ["RedisLink"]

# Bytes of one publish; Redis takes 512 MiB, and every reader has to hold it.
MAX_PAYLOAD = 64 * 1024 * 1024 + 4096
#: The first version whose scripts may ask for the time and then write.
OLDEST = 5
# Milliseconds for which somebody counts as waiting who has not said so again.
WAITING = 30_000


class RedisLink:
    """See `channels_lite.relay.Link`; all state is that of one pair of connections."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.max_payload = MAX_PAYLOAD
        self.engine = "Redis"
        self.lack = ""
        self._pool = pool_of(settings)
        #: Where everything is asked, and where everything comes.
        self._asking: AbstractConnection | None = None
        self._coming: AbstractConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._commands: list[tuple[Any, ...]] = []
        self._has_commands = asyncio.Event()
        #: The futures of pending requests, in the order of their answers.
        self._answers: deque[asyncio.Future[Any]] = deque()
        #: Subscriptions that are not confirmed, and pings on that connection.
        self._subscribing: dict[tuple[bytes, str], list[asyncio.Future[None]]] = {}
        #: By the number in it, who has asked another process.
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._last_asked = 0
        #: By plain channel: jobs that we are entered for.
        self._entered: dict[str, int] = {}
        prefix = settings.prefix
        self._keys = f"{prefix}:"
        self._jobs = f"{prefix}.j."
        self._replies = f"{prefix}.r."

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
        self._asking = await self._connect()
        info = await self._say(self._asking, "INFO", "server")
        version = field_of(info, "valkey_version") or field_of(info, "redis_version") or "0"
        self.engine = f"{'Valkey' if b'valkey_version' in info else 'Redis'} {version}"
        if int(version.partition(".")[0]) < OLDEST:
            raise StoreUnavailable(f"it is {self.engine}; take 5 or later")
        for script in SCRIPTS.values():
            await self._say(self._asking, "SCRIPT", "LOAD", script)
        self._coming = await self._connect()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(each) for each in (self._write(), self._read(), self._take())
        ]
        token = self._settings.token
        own = [f"{self._jobs}{token}", f"{self._replies}{token}"]
        try:
            await asyncio.wait_for(self._subscribe("subscribe", [*own, *subjects]), STEP)
        except (TimeoutError, asyncio.TimeoutError):
            raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from None

    async def _connect(self) -> AbstractConnection:
        made = self._pool.make_connection()  # type: ignore[no-untyped-call]
        connection = cast("AbstractConnection", made)
        try:
            connecting = connection.connect()  # type: ignore[no-untyped-call]
            await asyncio.wait_for(connecting, 2 * STEP)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(reason_of(error)) from error
        return connection

    async def _say(self, connection: AbstractConnection, *command: Any) -> Any:
        """Before anything else is under way."""
        try:
            await connection.send_packed_command(connection.pack_command(*command))
            return await asyncio.wait_for(connection.read_response(), STEP)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(reason_of(error)) from error

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
        waiting = [*self._answers, *self._asked.values()]
        for futures in self._subscribing.values():
            waiting += futures
        self._answers.clear()
        self._asked.clear()
        self._subscribing.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(StoreUnavailable(reason))
                future.exception()  # somebody may have stopped to wait

    async def close(self) -> None:
        """Ends both, whether the server listens or not."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STEP)
        is_clean = not (self.lost.done() or self._answers)
        self._lose("it was closed")
        for connection in (self._asking, self._coming):
            if connection is not None:
                if not is_clean:
                    cut(getattr(connection, "_writer", None))
                with suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)

    def abandon(self) -> None:
        """In a forked child."""
        for connection in (self._asking, self._coming):
            let_go(getattr(connection, "_writer", None))

    # Asking

    async def _write(self) -> None:
        """Writes what is to be asked: all of an iteration in one piece."""
        connection = cast("AbstractConnection", self._asking)
        try:
            while True:
                await self._has_commands.wait()
                self._has_commands.clear()
                commands, self._commands = self._commands, []
                await connection.send_packed_command(connection.pack_commands(commands))
        except (RedisError, OSError) as error:
            self._lose(reason_of(error))

    async def _read(self) -> None:
        """Reads the answers."""
        connection = cast("AbstractConnection", self._asking)
        try:
            while True:
                answer: Any
                try:
                    answer = await connection.read_response(disconnect_on_error=False)
                except ResponseError as error:
                    answer = error
                future = self._answers.popleft()
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(StoreUnavailable(reason_of(answer)))
                else:
                    future.set_result(answer)
        except (RedisError, OSError) as error:
            self._lose(reason_of(error))

    def _ask(self, *command: Any) -> asyncio.Future[Any]:
        """Asks; answered in the order of asking."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.lost.done():
            future.set_exception(StoreUnavailable(self.lost.result()))
            return future
        self._answers.append(future)
        self._commands.append(command)
        self._has_commands.set()
        return future

    def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> asyncio.Future[Any]:
        return self._ask("EVALSHA", sha_of(script), len(keys), *keys, *arguments)

    async def ping(self) -> None:
        """On both."""
        await self._ask("PING")
        await self._subscribe("ping", [""])
        for channel, count in list(self._entered.items()):
            if count:  # a script may have removed the entry
                await self._enter(channel, count)

    # What comes

    async def _take(self) -> None:
        connection = cast("AbstractConnection", self._coming)
        try:
            while True:
                kind, *what = await connection.read_response(disconnect_on_error=False)
                if kind == b"message":
                    self._came(what[0].decode(), what[1])
                elif kind in (b"subscribe", b"unsubscribe", b"pong"):
                    name = "" if kind == b"pong" else what[0].decode()
                    self._confirmed(kind, name)
        except (RedisError, OSError) as error:
            self._lose(reason_of(error))

    def _confirmed(self, kind: bytes, name: str) -> None:
        waiting = self._subscribing.get((kind, name))
        if not waiting:
            return
        future = waiting.pop(0)
        if not waiting:
            del self._subscribing[kind, name]
        if not future.done():
            future.set_result(None)

    def _came(self, subject: str, payload: bytes) -> None:
        if subject.startswith(self._jobs):
            ttl, _, rest = payload.partition(b" ")
            channel, _, data = rest.partition(b" ")
            name = channel.decode()
            self._entered[name] = max(0, self._entered.get(name, 0) - 1)
            self._listener.job_came(name, data, int(ttl) / 1000)
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

    async def _subscribe(self, verb: str, subjects: Sequence[str]) -> None:
        """Says it on the connection where it is confirmed among what comes."""
        connection = cast("AbstractConnection", self._coming)
        if self.lost.done():
            raise StoreUnavailable(self.lost.result())
        kind = b"pong" if verb == "ping" else verb.encode()
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None]] = []
        for subject in subjects:
            future: asyncio.Future[None] = loop.create_future()
            self._subscribing.setdefault((kind, subject), []).append(future)
            futures.append(future)
        command = (verb.upper(), *(subjects if verb != "ping" else ()))
        try:
            await connection.send_packed_command(
                connection.pack_command(*command), check_health=False
            )
        except (RedisError, OSError) as error:
            self._lose(reason_of(error))
        for future in futures:
            await future

    async def subscribe(self, subject: str) -> None:
        """Confirmed among what comes."""
        await self._subscribe("subscribe", [subject])

    async def unsubscribe(self, subject: str) -> None:
        """The same."""
        await self._subscribe("unsubscribe", [subject])

    # Publishes

    def publish(
        self, parcels: Sequence[tuple[str, bytes]], groups: Sequence[str]
    ) -> asyncio.Future[dict[str, list[str]]]:
        """In one piece with the question which plain channels the groups have."""
        sent = [self._ask("PUBLISH", subject, payload) for subject, payload in parcels]
        asked = [self._run(MEMBERS, [self._group(group)]) for group in groups]
        return asyncio.ensure_future(
            self._with_members(sent, dict(zip(groups, asked, strict=True)))
        )

    async def _with_members(
        self, sent: list[asyncio.Future[Any]], asked: dict[str, asyncio.Future[Any]]
    ) -> dict[str, list[str]]:
        for each in sent:
            await each
        found = {group: await answer for group, answer in asked.items()}
        return {
            group: [channel.decode() for channel in channels]
            for group, channels in found.items()
            if channels
        }

    async def ask(self, subject: str, payload: bytes) -> bytes | None:
        """Redis says how many it was told to."""
        self._last_asked += 1
        number = self._last_asked
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            asked = Ask.MARK + encode_ask(Ask(self._settings.token, number, payload))
            if not await self._ask("PUBLISH", subject, asked):
                return None
            return await future
        finally:
            self._asked.pop(number, None)

    async def answer(self, reply: str, payload: bytes) -> None:
        """To the process that has asked."""
        token, _, number = reply.partition(" ")
        answer = encode_ask(Ask("", int(number), payload))
        await self._ask("PUBLISH", f"{self._replies}{token}", answer)

    # Plain channels

    def _queue(self, channel: str) -> list[str]:
        """Its two keys; in a cluster they are in one place."""
        return [f"{self._keys}q:{{{channel}}}", f"{self._keys}w:{{{channel}}}"]

    def _group(self, group: str) -> str:
        return f"{self._keys}g:{group}"

    async def put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """By `PUT`."""
        return await self._put(channel, data, ttl, capacity or 0, 0)

    async def put_back(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """To the front, over the capacity if need be."""
        return await self._put(channel, data, ttl, 0, 1)

    async def _put(
        self, channel: str, data: bytes, ttl: float, capacity: int, is_first: int
    ) -> bool:
        milliseconds = max(1, int(ttl * 1000))
        keys = self._queue(channel)
        return bool(
            await self._run(PUT, keys, self._jobs, channel, data, milliseconds, capacity, is_first)
        )

    async def want(self, channel: str, capacity: int | None, total: int) -> None:
        """By `TAKE`, if it is not what we are entered for."""
        if self._entered.get(channel, 0) != total:
            await self._enter(channel, total)

    async def _enter(self, channel: str, total: int) -> None:
        self._entered[channel] = total
        token = self._settings.token
        taking = self._run(TAKE, self._queue(channel), "", token, total, WAITING)
        # A delivered job belongs to this process, so it is taken even if the caller was cancelled.
        taking.add_done_callback(lambda _: self._taken(channel, taking))
        await asyncio.shield(taking)

    def _taken(self, channel: str, taking: asyncio.Future[list[bytes]]) -> None:
        if taking.cancelled() or taking.exception() is not None:
            self._entered.pop(channel, None)
            return
        found = taking.result()
        for ttl, data in zip(found[::2], found[1::2], strict=True):
            self._entered[channel] = max(0, self._entered.get(channel, 0) - 1)
            self._listener.job_came(channel, data, int(ttl) / 1000)

    # Memberships of plain channels

    async def join(self, group: str, channel: str, expiry: float) -> None:
        """By `JOIN`."""
        await self._run(JOIN, [self._group(group)], channel, int(expiry * 1000))

    async def leave(self, group: str, channel: str) -> None:
        """Takes it out of the set."""
        await self._ask("ZREM", self._group(group), channel)

    async def members(self, group: str) -> list[str]:
        """By `MEMBERS`."""
        found = await self._run(MEMBERS, [self._group(group)])
        return sorted(each.decode() for each in found)

    async def clear(self) -> None:
        """Deletes the lists of jobs and the sets.  Waiting processes keep waiting."""
        for kind in "qg":
            cursor = b"0"
            while True:
                pattern = f"{self._keys}{kind}:*"
                cursor, keys = await self._ask("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                if keys:
                    await self._ask("UNLINK", *keys)
                if cursor == b"0":
                    break
