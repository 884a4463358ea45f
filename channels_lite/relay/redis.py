"""Redis, or what speaks its protocol: publishes by its pub/sub, plain channels by lists.

Two connections: on one everything is asked, without waiting for the answer before; on the other
everything comes, in the order in which Redis was told.

A plain channel is a list, and beside it a list of the processes that wait for a job of it.  One
script puts a job: straight to the first of those who wait and still subscribes, or else at the end
of the list, if there is room.  Another takes what is there, and enters who wants more.  Both go by
Redis's own clock.  So the list has jobs only while nobody waits, and a job costs its sender one
round trip, and its worker one at most.

Memberships of plain channels are a sorted set for each group, by the time when they end.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    RedisError,
    ResponseError,
)

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Listener, Settings
from channels_lite.relay.sockets import let_go
from channels_lite.relay.wire import Ask, Unreadable, decode_ask, encode_ask

__all__ = ["RedisLink"]

# Seconds of one step of connecting.
STEP = 2.0
# Bytes of one publish; Redis takes 512 MiB, and every reader has to hold it.
MAX_PAYLOAD = 64 * 1024 * 1024 + 4096
#: The first version whose scripts may ask for the time and then write.
OLDEST = 5
# Milliseconds for which somebody counts as waiting who has not said so again.
WAITING = 30_000

# What has expired is not there; "now" is Redis's, in milliseconds.
_HEAD = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local queue, waiting, ends = KEYS[1], KEYS[2], ARGV[1]
local function until_of(job) return tonumber(string.sub(job, 1, 15)) end
local function drop_expired()
  while true do
    local first = redis.call('LINDEX', queue, 0)
    if not first or until_of(first) > now then return end
    redis.call('LPOP', queue)
  end
end
"""
# To one who waits, if he is there still; ends .. token is where jobs come to him.
_HAND_OVER = """
local function hand_over(channel, job)
  while true do
    local token = redis.call('LPOP', waiting)
    if not token then return false end
    local told = tostring(until_of(job) - now) .. ' ' .. channel .. ' ' .. string.sub(job, 16)
    if redis.call('PUBLISH', ends .. token, told) > 0 then return true end
  end
end
"""
# ARGV: where jobs come, channel, data, milliseconds to live, capacity (0: none), whether it goes
# to the front.  1: done; 0: full.
PUT = (
    _HEAD
    + _HAND_OVER
    + """
drop_expired()
local ttl = tonumber(ARGV[4])
local job = string.format('%015d', now + ttl) .. ARGV[3]
if hand_over(ARGV[2], job) then return 1 end
local capacity = tonumber(ARGV[5])
if ARGV[6] == '1' then
  redis.call('LPUSH', queue, job)
else
  if capacity > 0 and redis.call('LLEN', queue) >= capacity then return 0 end
  redis.call('RPUSH', queue, job)
end
if redis.call('PTTL', queue) < ttl then redis.call('PEXPIRE', queue, ttl + 1000) end
return 1
"""
)
# ARGV: (unused), token, how many are wanted, milliseconds for which the others are waited for.
# Returns jobs, each with its milliseconds to live before it.
TAKE = (
    _HEAD
    + """
drop_expired()
local token, wanted = ARGV[2], tonumber(ARGV[3])
redis.call('LREM', waiting, 0, token)
local found = {}
while #found < 2 * wanted do
  local job = redis.call('LPOP', queue)
  if not job then break end
  if until_of(job) > now then
    found[#found + 1] = tostring(until_of(job) - now)
    found[#found + 1] = string.sub(job, 16)
  end
end
for _ = #found / 2 + 1, wanted do redis.call('RPUSH', waiting, token) end
redis.call('PEXPIRE', waiting, tonumber(ARGV[4]))
return found
"""
)
# KEYS: the group.  ARGV: channel, milliseconds; or nothing, and who is a member is asked.
JOIN = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) + 1000)
end
return 1
"""
MEMBERS = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
"""


def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


SCRIPTS = {_sha(script): script for script in (PUT, TAKE, JOIN, MEMBERS)}


class RedisLink:
    """See `channels_lite.relay.Link`; all state is that of one pair of connections."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.max_payload = MAX_PAYLOAD
        self.engine = "Redis"
        self.lack = ""
        self._pool = _pool(settings)
        #: Where everything is asked, and where everything comes.
        self._asking: AbstractConnection | None = None
        self._coming: AbstractConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._commands: list[tuple[Any, ...]] = []
        self._has_commands = asyncio.Event()
        #: Who waits for the answers, in the order in which they come; None: nobody does.
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
            pool = _pool(settings)
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
        version = _field(info, "valkey_version") or _field(info, "redis_version") or "0"
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
            raise StoreUnavailable(_reason(error)) from error
        return connection

    async def _say(self, connection: AbstractConnection, *command: Any) -> Any:
        """Before anything else is under way."""
        try:
            await connection.send_packed_command(connection.pack_command(*command))
            return await asyncio.wait_for(connection.read_response(), STEP)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(_reason(error)) from error

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
            await asyncio.wait(self._tasks)
        self._lose("it was closed")
        for connection in (self._asking, self._coming):
            if connection is not None:
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
            self._lose(_reason(error))

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
                    future.set_exception(StoreUnavailable(_reason(answer)))
                else:
                    future.set_result(answer)
        except (RedisError, OSError) as error:
            self._lose(_reason(error))

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
        return self._ask("EVALSHA", _sha(script), len(keys), *keys, *arguments)

    async def ping(self) -> None:
        """On both."""
        await self._ask("PING")
        await self._subscribe("ping", [""])
        for channel, count in list(self._entered.items()):
            if count:  # it may have been taken for one who has gone
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
            self._lose(_reason(error))

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
            self._lose(_reason(error))
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
        # To be told is to own it, so whatever becomes of who asked, it is handed on.
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
        """Deletes the lists of jobs and the sets; who waits goes on to."""
        for kind in "qg":
            cursor = b"0"
            while True:
                pattern = f"{self._keys}{kind}:*"
                cursor, keys = await self._ask("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                if keys:
                    await self._ask("UNLINK", *keys)
                if cursor == b"0":
                    break


def _pool(settings: Settings) -> ConnectionPool:
    """redis-py's; connects to nothing."""
    ours = {
        "protocol": 2,  # what is subscribed to comes as plain lists
        "socket_timeout": None,  # it is the relay that waits
        "socket_connect_timeout": STEP,
        "decode_responses": False,
        "client_name": "channels-lite",
    }
    options = {"client_name": ours["client_name"]} | dict(settings.options) | ours
    sentinels, service = options.pop("sentinels", None), options.pop("service", None)
    sentinel_options = options.pop("sentinel_kwargs", None)
    url = settings.url
    for ours_scheme, theirs in (("valkey://", "redis://"), ("valkeys://", "rediss://")):
        if url.startswith(ours_scheme):
            url = theirs + url[len(ours_scheme) :]
    if not sentinels:
        return ConnectionPool.from_url(url, **options)
    if not service:
        raise ValueError("sentinels need a service, the name of their master")
    known = ConnectionPool.from_url(url, **options).connection_kwargs
    for key in ("host", "port", "path"):
        known.pop(key, None)
    monitors = [(str(host), int(port)) for host, port in sentinels]
    found = Sentinel(  # type: ignore[no-untyped-call]
        monitors, sentinel_kwargs=sentinel_options, **known
    )
    return cast("ConnectionPool", found.master_for(service).connection_pool)


def _field(info: bytes, name: str) -> str:
    for line in info.decode(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def _reason(error: Exception) -> str:
    said = str(error) or type(error).__name__
    cause = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its TLS certificate does not verify ({cause.verify_message}): see ssl_ca_certs "
                "in CONFIG['relay_options']"
            )
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    is_denied = any(word in said for word in ("WRONGPASS", "NOAUTH", "invalid username-password"))
    if is_denied or isinstance(error, (AuthenticationError, AuthorizationError)):
        return (
            f"it refuses the login ({said}): see user and password in CONFIG['relay'], or "
            "CONFIG['relay_options']"
        )
    if isinstance(error, InvalidResponse):
        return f"what listens there is no Redis ({said})"
    if isinstance(error, ResponseError) and "OOM" in said:
        return f"its memory is full: {said}"
    return said.partition(". ")[0]  # what it has to say about protected mode is a page
