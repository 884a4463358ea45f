"""A connection to NATS: its subscriptions, its publishes, and what comes.

Thread: the relay's loop, except where a docstring says "any loop" or "any thread".  Requests, jobs
and memberships have their own state; this class has that of the connection.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from channels_lite.clock import ticks
from channels_lite.errors import StoreUnavailable
from channels_lite.history import Limit, Limits
from channels_lite.loops import soon
from channels_lite.relay import (
    Listener,
    Page,
    Published,
    Recent,
    Settings,
    outcome,
)
from channels_lite.relay.nats import servers
from channels_lite.relay.nats.client import STEP, OrderedClient, pub
from channels_lite.relay.nats.histories import Histories
from channels_lite.relay.nats.jobs import Jobs
from channels_lite.relay.nats.members import Members, Publication
from channels_lite.relay.nats.requests import NO_RESPONDERS, Requests
from channels_lite.relay.nats.streams import Streams
from channels_lite.relay.sockets import cut

__all__ = ["NatsLink"]

#: The first version whose streams refuse what is over a subject's limit.
OLDEST = (2, 9)


class NatsLink:
    """See `channels_lite.relay.Link`."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self._client = OrderedClient(self._take)
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.max_payload = 1024 * 1024
        self.engine = "NATS"
        self._error: Exception | None = None
        self._last_sid = 0
        self._sids: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = Requests(self._client, settings.token)
        streams = self._streams = Streams(settings, self._requests)
        self._jobs = Jobs(settings, self._requests, streams, listener.job_came, self._keep)
        self._members = Members(settings, self._requests, streams, self._keep)
        #: Those to groups that are not done.
        self._publications: set[Publication] = set()
        self._histories = Histories(settings, self._requests, streams)

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Checks the URL and the options of nats-py."""
        servers.check(settings)

    @property
    def is_shared(self) -> bool:
        """See `Link`."""
        stream = self._client.stream
        return stream is not None and stream.is_shared

    def use_here(self) -> None:
        """See `Link`.  Any loop."""
        stream = self._client.stream
        if stream is not None:
            stream.use_here()

    @property
    def lack(self) -> str:
        """See `Link`."""
        return self._requests.lack

    # The connection

    async def open(self, subjects: Iterable[str]) -> None:
        """Connects to one of the servers, in any order, so that not all processes are on one."""
        await self._connect()
        info = self._client.info
        self.max_payload = int(info.get("max_payload", self.max_payload))
        version = str(info.get("version", "0"))
        self.engine = f"NATS {version}"
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            raise StoreUnavailable(f"it is nats-server {version}; take 2.9 or later")
        if not info.get("jetstream"):
            self._requests.lack = (
                "nats-server runs without JetStream, so plain channels cannot be used: start it "
                "with -js"
            )
        commands = [self._sub(f"{self._requests.inbox}.*"), *map(self._sub, subjects)]
        await self._client.begin()
        try:
            await asyncio.wait_for(self._write(b"".join(commands)), STEP)
        except (TimeoutError, asyncio.TimeoutError):
            raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from None
        if not self.lack:
            # Nobody waits for it: a cluster may have no leader yet, and who joins makes it, too.
            self._keep(self._members.make)

    async def _connect(self) -> None:
        found = servers.servers_of(self._settings.url)
        random.shuffle(found)
        for number, server in enumerate(found, start=1):
            try:
                await servers.connect(
                    self._client, self._settings, server, self._on_error, self._on_lost
                )
                return
            except StoreUnavailable:
                if number == len(found):
                    raise
                self._client.drop()
                self._client = self._requests.client = OrderedClient(self._take)

    def _keep(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs it on the relay's loop until the link is lost.  Any thread."""
        soon(self._loop, partial(self._begin, function))

    def _begin(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self.lost.done():
            return
        task = self._loop.create_task(function())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        for task in self._tasks:
            task.cancel()
        error = StoreUnavailable(reason)
        self._client.fail(error)
        self._requests.fail(error)

    async def ping(self) -> None:
        """By the protocol's own."""
        await self._write(b"")
        self._jobs.renew()
        for publication in list(self._publications):
            if ticks() > publication.until:  # its loop does not run any more
                publication.give_up()

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
        self._loop.call_soon(self._client.end)  # when asyncio has closed it

    def abandon(self) -> None:
        """In a forked child."""
        self._client.abandon()

    # Subjects

    def _write(self, commands: bytes) -> asyncio.Future[Any]:
        """Done when the server has them."""
        return outcome(self._publish(commands))

    def _publish(self, commands: bytes) -> Published:
        """The same.  Any loop."""
        published = self._client.write(commands)
        if self.lost.done():
            self._client.fail(StoreUnavailable(self.lost.result()))
        return published

    def _sub(self, subject: str) -> bytes:
        self._last_sid += 1
        self._sids[subject] = self._last_sid
        return f"SUB {subject} {self._last_sid}\r\n".encode()

    async def subscribe(self, subject: str) -> None:
        """The server answers in the order in which it is asked."""
        await self._write(self._sub(subject))

    async def unsubscribe(self, subject: str) -> None:
        """The reverse."""
        sid = self._sids.pop(subject, None)
        if sid is not None:
            await self._write(f"UNSUB {sid}\r\n".encode())

    def publish(self, parcels: Sequence[tuple[str, bytes]], groups: Sequence[str]) -> Published:
        """In one piece with the question whether the groups have plain channels in them.

        Any loop.
        """
        commands = [pub(subject, payload) for subject, payload in parcels]
        if self.lack or not groups:
            return self._publish(b"".join(commands))
        publication = Publication(groups)
        self._publications.add(publication)
        publication.published.add_done_callback(lambda _: self._publications.discard(publication))
        publication.begin()
        commands += [self._members.ask(group, publication) for group in groups]
        self._publish(b"".join(commands)).add_done_callback(publication.written)
        return publication.published

    async def ask(self, subject: str, payload: bytes) -> bytes | None:
        """The server says at once where nobody subscribes."""
        answer = await self._requests.ask(subject, payload)
        return None if answer.status == NO_RESPONDERS else answer.data

    async def answer(self, reply: str, payload: bytes) -> None:
        """To the inbox of who has asked."""
        await self._write(pub(reply, payload))

    def _take(self, sid: int, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """Everything that comes, in the order of the connection.  Any thread."""
        inbox = self._requests.inbox
        if subject.startswith(inbox):
            number = subject[len(inbox) + 1 :]
            status = headers[9:12].decode("ascii", "replace") if headers else ""
            if not self._requests.answered(number, data, status):
                self._jobs.ended(number, status)  # of a pull request, if it is one
        elif reply.startswith("$JS.ACK."):
            if not self._histories.take(subject, reply, data):
                self._jobs.take(subject, reply, data)
        else:
            self._listener.came(subject, data, reply)

    # JetStream

    async def put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """By a request.  Any loop."""
        return await self._jobs.put(channel, data, ttl, capacity)

    async def put_back(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """As the last one, for a stream has one end."""
        return await self._jobs.put(channel, data, ttl, capacity)

    def want(self, channel: str, capacity: int | None, total: int) -> Future[None] | None:
        """By pull requests.  Any loop."""
        return self._jobs.want(channel, capacity, total)

    async def join(self, group: str, channel: str, expiry: float) -> None:
        """For the time that the stream of memberships has."""
        await self._members.join(group, channel)

    async def leave(self, group: str, channel: str) -> None:
        """See `Link`."""
        await self._members.leave(group, channel)

    async def members(self, group: str) -> list[str]:
        """See `Link`."""
        return await self._members.of(group)

    async def append(
        self, group: str, data: bytes, limit: Limit, told: tuple[str, bytes]
    ) -> list[str]:
        """By a request; what is published then asks for the plain channels, too."""
        await self._histories.append(group, data, limit)
        members = await outcome(self.publish([told], [group]))
        return (members or {}).get(group, [])

    async def recent(self, row: int | None, age: float, limit_of: Limits) -> Recent:
        """See `Link`."""
        return await self._histories.recent(row, age, limit_of)

    async def after(self, group: str, row: int, most: int, limit: Limit) -> Page:
        """See `Link`."""
        return await self._histories.after(group, row, most, limit)

    async def before(self, group: str, most: int, limit: Limit) -> int:
        """See `Link`."""
        return await self._histories.before(group, most, limit)

    async def kept(self) -> tuple[int, int]:
        """See `Link`."""
        return await self._histories.kept()

    async def clear(self) -> None:
        """Purges all streams of ours, and deletes that of the histories."""
        if not self.lack:
            await self._histories.clear()
            await self._streams.clear()
