"""NATS: core NATS for publishes, JetStream for plain channels and their memberships.

A plain channel is one subject of a stream that JetStream keeps in memory, because a job lives for
only a minute.  A job is delivered once (``max_deliver=1``), so it belongs to its receiver, and is
acknowledged to make room.  Each capacity has its own stream, because it is a property of a stream.
Memberships of plain channels are subjects of a stream on disk.  A further subject says that a group
has any; it is read first, because most groups have none.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import random
import re
import ssl
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from nats.aio.client import Client
from nats.errors import Error as NatsError

from channels_lite.clock import ticks
from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Listener, Settings
from channels_lite.relay.jetstream import (
    AGAIN,
    STEP,
    TTL,
    Delivery,
    Queues,
    code_of,
    pub,
    said_by,
)
from channels_lite.relay.nats_client import OrderedClient
from channels_lite.relay.sockets import cut, let_go
from channels_lite.relay.wire import escape, unescape

__all__ = ["NatsLink"]

#: The first version whose streams refuse what is over a subject's limit.
OLDEST = (2, 9)
# Of JetStream's errors: what a full subject says; a stream that has another configuration; too few
# servers for so many replicas.
FULL, OTHER_CONFIG, FEW_PEERS = 10077, 10058, (10005, 10074)
# Seconds for which a group's plain channels are waited for, where a cluster has no leader.
NO_LEADER = 0.5
# The status that says that nobody subscribes.
NO_RESPONDERS = "503"
# Seconds within which a job that was taken has made room.
ACKNOWLEDGED = 0.01
# Of nats-py's options, those that are none of the user's.
_OURS = {
    "self", "servers", "allow_reconnect", "connect_timeout", "ping_interval", "error_cb",
    "disconnected_cb", "closed_cb", "reconnected_cb", "discovered_server_cb", "lame_duck_mode_cb",
    "no_echo", "verbose", "inbox_prefix",
}  # fmt: skip

T = TypeVar("T")


class NatsLink:
    """See `channels_lite.relay.Link`; all state is that of one connection."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self._client = OrderedClient(self._take)
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.max_payload = 1024 * 1024
        self.engine = "NATS"
        self.lack = ""
        self._error: Exception | None = None
        self._last_sid = 0
        self._sids: dict[str, int] = {}
        self._inbox = f"_INBOX.{settings.token}"
        #: What was asked, by the last part of the subject to which it is answered.
        self._answers: dict[str, asyncio.Future[_Answer]] = {}
        self._numbers = itertools.count()
        self._queues = Queues(self)
        self._members = f"{settings.prefix}_members"
        self._are_members_made = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Raises ``ImproperlyConfigured`` for what can be known to be wrong without a server."""
        known = set(inspect.signature(Client.connect).parameters) - _OURS
        unknown = sorted(set(settings.options) - known)
        if unknown:
            raise ImproperlyConfigured(
                f"CONFIG['relay_options'] has {', '.join(map(repr, unknown))}; it takes prefix, "
                f"replicas, and of nats-py's connect() {', '.join(sorted(known))}."
            )
        for server in _servers(settings.url):
            try:
                has_host = bool(urlsplit(server).hostname) and urlsplit(server).port != 0
            except ValueError:
                has_host = False
            if not has_host:
                raise ImproperlyConfigured(
                    f"CONFIG['relay'] is {settings.shown!r}, but must be "
                    "nats://host:port,host:port ..."
                )

    # The connection

    async def open(self, subjects: Iterable[str]) -> None:
        """One of the servers, in any order, so that not all processes are on one."""
        servers = _servers(self._settings.url)
        random.shuffle(servers)
        for number, server in enumerate(servers):
            try:
                await self._connect(server)
                break
            except StoreUnavailable:
                if number == len(servers) - 1:
                    raise
                self._client.drop()
                self._client = OrderedClient(self._take)
        info = self._client.info
        self.max_payload = int(info.get("max_payload", self.max_payload))
        version = str(info.get("version", "0"))
        self.engine = f"NATS {version}"
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            raise StoreUnavailable(f"it is nats-server {version}; take 2.9 or later")
        if not info.get("jetstream"):
            self.lack = (
                "nats-server runs without JetStream, so plain channels cannot be used: start it "
                "with -js"
            )
        commands = [self._sub(f"{self._inbox}.*"), *map(self._sub, subjects)]
        await self._confirmed(self._client.write(b"".join(commands)))
        if not self.lack:
            # Nobody waits for it: a cluster may have no leader yet, and who joins makes it, too.
            self._keep(self._make_members())

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, server: str) -> None:
        options = {"name": f"channels-lite {self._settings.token}"} | dict(self._settings.options)
        host = urlsplit(server).hostname
        try:
            await self._client.connect(
                **options,
                servers=[server],
                allow_reconnect=False,
                connect_timeout=STEP,  # type: ignore[arg-type]
                ping_interval=3600,
                error_cb=self._on_error,
                disconnected_cb=self._on_lost,
                closed_cb=self._on_lost,
            )
        except ssl.SSLCertVerificationError as error:
            raise StoreUnavailable(
                f"the TLS certificate of {host} does not verify ({error.verify_message}): give "
                "CONFIG['relay_options']['tls'] an ssl.SSLContext that knows who has signed it"
            ) from error
        except ConnectionRefusedError as error:
            port = urlsplit(server).port or 4222
            raise StoreUnavailable(f"nothing listens at {host}:{port}") from error
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise StoreUnavailable(f"{host} did not answer within {STEP:.0f} s") from error
        except (OSError, NatsError, ValueError) as error:
            raise StoreUnavailable(_reason(str(error), str(host))) from error

    async def _on_error(self, error: Exception) -> None:
        self._error = error

    async def _on_lost(self) -> None:
        reason = "the connection was closed"
        if self._error is not None:
            reason = str(self._error) or type(self._error).__name__
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
        error = StoreUnavailable(reason)
        self._client.fail(error)
        for answer in self._answers.values():
            _fail(answer, error)
        self._answers.clear()

    async def _confirmed(self, written: asyncio.Future[None]) -> None:
        await self._step(written)

    async def _step(self, awaitable: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(awaitable, STEP)
        except (TimeoutError, asyncio.TimeoutError):
            raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from None

    async def ping(self) -> None:
        """By the protocol's own."""
        await self._client.write(b"")
        self._queues.renew()

    async def close(self) -> None:
        """Ends it, whether the server listens or not."""
        is_clean = not (self.lost.done() or self._client.is_waiting)
        self._lose("it was closed")
        writer = self._client.writer()
        if not is_clean:
            cut(writer)
        closing = asyncio.ensure_future(self._client.close())
        await asyncio.wait([closing], timeout=0.3)
        if not closing.done():
            closing.cancel()
        elif closing.exception() is not None:
            self._error = closing.exception()  # type: ignore[assignment]
        if writer is not None:
            writer.transport.abort()

    def abandon(self) -> None:
        """In a forked child."""
        let_go(self._client.writer())

    # For the queues

    @property
    def inbox(self) -> str:
        """Where answers come; one more part says which."""
        return self._inbox

    @property
    def expiry(self) -> float:
        """Seconds."""
        return self._settings.expiry

    def write(self, commands: bytes) -> None:
        """Writes commands without confirmation."""
        self._client.write_only(commands)

    def job_came(self, channel: str, data: bytes, ttl: float) -> None:
        """Tells the layer."""
        self._listener.job_came(channel, data, ttl)

    # Subjects

    def _sub(self, subject: str) -> bytes:
        self._last_sid += 1
        self._sids[subject] = self._last_sid
        return f"SUB {subject} {self._last_sid}\r\n".encode()

    async def subscribe(self, subject: str) -> None:
        """The server answers in the order in which it is asked."""
        await self._client.write(self._sub(subject))

    async def unsubscribe(self, subject: str) -> None:
        """The reverse."""
        sid = self._sids.pop(subject, None)
        if sid is not None:
            await self._client.write(f"UNSUB {sid}\r\n".encode())

    def publish(
        self, parcels: Sequence[tuple[str, bytes]], groups: Sequence[str]
    ) -> asyncio.Future[dict[str, list[str]]]:
        """In one piece with the question whether the groups have plain channels in them."""
        commands = [pub(subject, payload) for subject, payload in parcels]
        asked: dict[str, asyncio.Future[_Answer] | None] = {}
        for group in () if self.lack else groups:
            asked[group] = None
            if self._are_members_made.is_set():  # else nobody would answer
                subject = f"$JS.API.DIRECT.GET.{self._members}.{self._membership(group)}"
                asked[group], command = self._asking(subject, b"")
                commands.append(command)
        written = self._client.write(b"".join(commands))
        return asyncio.ensure_future(self._with_members(written, asked))

    async def _with_members(
        self, written: asyncio.Future[None], asked: dict[str, asyncio.Future[_Answer] | None]
    ) -> dict[str, list[str]]:
        await written
        found = {}
        for group, answer in asked.items():
            with suppress(TimeoutError, asyncio.TimeoutError):
                members = self._members_if_any(group, answer)
                found[group] = await asyncio.wait_for(members, NO_LEADER)
        return found

    async def _members_if_any(
        self, group: str, answer: asyncio.Future[_Answer] | None
    ) -> list[str]:
        if answer is None:
            await self._are_members_made.wait()
        elif (await answer).status:
            return []
        return await self.members(group)

    def _asking(self, subject: str, payload: bytes) -> tuple[asyncio.Future[_Answer], bytes]:
        """What will be answered, and what asks for it once it is written."""
        number = f"{next(self._numbers):x}"
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        # A request that timed out is answered late, or never.
        answer.add_done_callback(lambda _: self._answers.pop(number, None))
        return answer, pub(subject, payload, f"{self._inbox}.{number}")

    async def request(self, subject: str, payload: bytes = b"") -> _Answer:
        """The answer to it."""
        answer, command = self._asking(subject, payload)
        self._client.write_only(command)
        return await answer

    async def ask(self, subject: str, payload: bytes) -> bytes | None:
        """The server says at once where nobody subscribes."""
        answer = await self.request(subject, payload)
        return None if answer.status == NO_RESPONDERS else answer.data

    async def answer(self, reply: str, payload: bytes) -> None:
        """To the inbox of who has asked."""
        await self._client.write(pub(reply, payload))

    def _take(self, sid: int, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """Everything that comes, in the order of the connection."""
        if subject.startswith(self._inbox):
            number = subject[len(self._inbox) + 1 :]
            status = headers[9:12].decode("ascii", "replace") if headers else ""
            answer = self._answers.pop(number, None)
            if answer is None:
                self._queues.ended(number, status)  # of a pull request, if it is one
            elif not answer.done():
                # A direct answer has headers of its own, and no status.
                answer.set_result(_Answer(data, status if status.strip().isdigit() else ""))
        elif reply.startswith("$JS.ACK."):
            if self._replicas > 1:
                self._keep(self._claim(subject, reply, data))
            else:
                self._client.write_only(pub(reply, b""))
                self._queues.take(subject, reply, data)
        else:
            self._listener.came(subject, data, reply)

    async def _claim(self, subject: str, reply: str, data: bytes) -> None:
        """With replicas, a new leader may not know that a job was delivered.  So the process that
        deletes it from the stream owns it."""
        delivery = Delivery.of(reply)
        what = {"seq": delivery.sequence, "no_erase": True}
        until = ticks() + self._settings.expiry
        is_ours = False
        while ticks() < until and not self.lost.done():
            try:
                deleting = self.api(f"STREAM.MSG.DELETE.{delivery.stream}", **what)
                said = await asyncio.wait_for(deleting, STEP)
            except (StoreUnavailable, TimeoutError, asyncio.TimeoutError):
                await asyncio.sleep(AGAIN)  # there is no leader now
                continue
            is_ours = bool(said.get("success"))
            break
        self._client.write_only(pub(reply, b""))
        self._queues.take(subject, reply, data, is_ours=is_ours)

    # JetStream

    async def api(self, name: str, /, **what: Any) -> dict[str, Any]:
        """What JetStream answers; an error is part of it."""
        payload = json.dumps(what).encode() if what else b""
        answer = await self.request(f"$JS.API.{name}", payload)
        if answer.status:
            raise StoreUnavailable(self.lack or "JetStream does not answer: it has no leader yet")
        found: dict[str, Any] = json.loads(answer.data)
        return found

    async def _make_stream(self, name: str, config: dict[str, Any]) -> None:
        """Creates a stream, or updates its configuration."""
        config = {"name": name, "num_replicas": self._replicas} | config
        code = code_of(made := await self.api(f"STREAM.CREATE.{name}", **config))
        if code in FEW_PEERS and self._settings.replicas is None:
            config["num_replicas"] = 1
            code = code_of(made := await self.api(f"STREAM.CREATE.{name}", **config))
        if code == OTHER_CONFIG:
            code = code_of(made := await self.api(f"STREAM.UPDATE.{name}", **config))
        if code:
            raise StoreUnavailable(f"JetStream refuses the stream {name}: {said_by(made)}")

    @property
    def _replicas(self) -> int:
        return self._settings.replicas or (3 if self._client.info.get("cluster") else 1)

    def stream(self, capacity: int | None) -> str:
        """The stream of the plain channels with this capacity."""
        return f"{self._settings.prefix}_jobs_{capacity or 0}"

    def queue(self, channel: str, capacity: int | None) -> str:
        """The subject of a plain channel."""
        return f"{self._settings.prefix}.q.{capacity or 0}.{escape(channel)}"

    async def make_queue(self, capacity: int | None) -> None:
        """The stream for it."""
        limits: dict[str, Any] = {"max_msgs_per_subject": -1}
        if capacity is not None:
            limits = {"max_msgs_per_subject": capacity, "discard_new_per_subject": True}
        await self._make_stream(
            self.stream(capacity),
            {
                "subjects": [self.queue(">", capacity)],
                "retention": "workqueue",
                "storage": "memory",
                "discard": "new",
                "max_age": int(self._settings.expiry * 1e9),
                **limits,
            },
        )

    async def put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """False if the stream refuses it: again a moment later, for acknowledgements take one."""
        if await self._put(channel, data, ttl, capacity):
            return True
        await asyncio.sleep(ACKNOWLEDGED)
        return await self._put(channel, data, ttl, capacity)

    async def _put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        subject, payload = self.queue(channel, capacity), TTL.pack(ttl) + data
        answer = await self.request(subject, payload)
        if answer.status == NO_RESPONDERS:
            if self.lack:
                raise StoreUnavailable(self.lack)
            await self.make_queue(capacity)
            answer = await self.request(subject, payload)
        if answer.status:
            raise StoreUnavailable("JetStream does not answer: the stream has no leader yet")
        said = json.loads(answer.data)
        if code_of(said) == FULL:
            return False
        if code_of(said):
            raise StoreUnavailable(f"JetStream refuses a job: {said_by(said)}")
        return True

    async def want(self, channel: str, capacity: int | None, total: int) -> None:
        """By pull requests."""
        await self._queues.want(channel, capacity, total)

    async def put_back(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """As the last one, for a stream has one end."""
        return await self.put(channel, data, ttl, capacity)

    # Memberships of plain channels

    def _members_config(self) -> dict[str, Any]:
        return {
            "subjects": [f"{self._settings.prefix}.m.>"],
            "storage": "file",
            "max_msgs_per_subject": 1,
            "allow_direct": True,
            "max_age": int(self._settings.group_expiry * 1e9),
        }

    def _membership(self, group: str, channel: str = "") -> str:
        name = f"{self._settings.prefix}.m.{escape(group)}"
        return f"{name}.{escape(channel)}" if channel else name

    async def _make_members(self) -> None:
        while not self.lost.done():
            try:
                await self._step(self._make_stream(self._members, self._members_config()))
            except StoreUnavailable:
                await asyncio.sleep(AGAIN)
            else:
                self._are_members_made.set()
                return

    async def join(self, group: str, channel: str, expiry: float) -> None:
        """Its subject, and then that of the group, which says that there are any."""
        for subject in (self._membership(group, channel), self._membership(group)):
            answer = await self.request(subject)
            if answer.status and not self.lack:
                await self._make_stream(self._members, self._members_config())
                answer = await self.request(subject)
            if answer.status:
                raise StoreUnavailable(self.lack or "JetStream does not answer")
            if code_of(said := json.loads(answer.data)):
                raise StoreUnavailable(f"JetStream refuses a membership: {said_by(said)}")

    async def leave(self, group: str, channel: str) -> None:
        """Deletes its subject."""
        subject = self._membership(group, channel)
        said = await self.api(f"STREAM.PURGE.{self._members}", filter=subject)
        if code_of(said):
            raise StoreUnavailable(f"JetStream keeps a membership: {said_by(said)}")

    async def members(self, group: str) -> list[str]:
        """The subjects below that of the group."""
        if self.lack:
            return []
        name = self._membership(group)
        said = await self.api(f"STREAM.INFO.{self._members}", subjects_filter=f"{name}.>")
        found = (said.get("state") or {}).get("subjects") or {}
        return sorted(unescape(each[len(name) + 1 :]) for each in found)

    async def clear(self) -> None:
        """Purges all streams of ours."""
        if self.lack:
            return
        said = await self.api("STREAM.NAMES", subject=f"{self._settings.prefix}.>")
        for name in said.get("streams") or ():
            await self.api(f"STREAM.PURGE.{name}")


class _Answer(NamedTuple):
    """``status`` is "" for one that has data."""

    data: bytes
    status: str


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # somebody may have stopped to wait


def _servers(url: str) -> list[str]:
    """One URL for each; a login that is given once is all of them's."""
    scheme, _, rest = url.partition("://")
    login, _, _ = rest.partition(",")[0].rpartition("@")
    return [
        f"{scheme}://{each if '@' in each or not login else f'{login}@{each}'}"
        for each in rest.rstrip("/").split(",")
    ]


def _reason(said: str, host: str) -> str:
    if "authorization" in said.lower():
        return (
            f"{host} refuses the login: see user and password in CONFIG['relay'], or "
            "CONFIG['relay_options']"
        )
    if "expecting INFO" in said or "json parse" in said:
        return f"what listens at {host} is no NATS server"
    return said
