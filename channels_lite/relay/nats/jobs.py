"""Plain channels on NATS: JetStream streams, put into by requests and read by pull requests.

A plain channel is one subject of a stream that JetStream keeps in memory, because a job lives for
only a minute.  A job is delivered once (``max_deliver=1``), so it belongs to its receiver, and is
acknowledged to make room.  Each capacity has its own stream, because it is a property of a stream.

There is one pull request for each waiting coroutine.  It ends when it is served, or expires.  Then
another one replaces it while the coroutine waits.

Thread: any loop that may use the link; jobs come on any thread.  One lock guards all state.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from channels_lite.clock import ticks
from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Settings
from channels_lite.relay.nats.client import STEP, pub
from channels_lite.relay.nats.requests import (
    AGAIN,
    NO_RESPONDERS,
    NO_STREAM,
    Requests,
    code_of,
    said_by,
)
from channels_lite.relay.nats.streams import Streams
from channels_lite.relay.wire import escape, unescape

__all__ = ["Delivery", "Jobs"]

# Seconds for which a job is asked for; it is asked for again then.
PULL = 20.0
# Seconds within which a job that was taken has made room.
ACKNOWLEDGED = 0.01
# JetStream's error of a full subject; the status of a pull request that has expired.
FULL, EXPIRED = 10077, "408"
# A pull request.
ONE = json.dumps({"batch": 1, "expires": int(PULL * 1e9)}).encode()
#: What is before the data of a job: seconds that it had to live when it was put.
TTL = struct.Struct("!d")


class Delivery(NamedTuple):
    """What a subject for acknowledgements says."""

    stream: str
    consumer: str
    sequence: int
    #: When the job was put, by the server's clock.
    at: float

    @classmethod
    def of(cls, reply: str) -> Delivery:
        """``$JS.ACK.stream.consumer.delivered.sequence...``; two parts more where there are
        domains."""
        parts = reply.split(".")[2 if len(reply.split(".")) == 9 else 4 :]
        return cls(parts[0], parts[1], int(parts[3]), int(parts[5]) / 1e9)


class Jobs:
    """Owns the requested jobs that have not arrived."""

    def __init__(
        self,
        settings: Settings,
        requests: Requests,
        streams: Streams,
        came: Callable[[str, bytes, float], None],
        keep: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self._prefix = settings.prefix
        self._expiry = settings.expiry
        self._requests = requests
        self._streams = streams
        #: Hands a job to the layer; and runs a coroutine on the relay's loop until the link is
        #: lost.
        self._came = came
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        #: By plain channel: its capacity, and how many are still wanted.
        self._wanted: dict[str, tuple[int | None, int]] = {}
        #: By plain channel: the pull requests under way, one for a job, and until when; they are
        #: served in their order.
        self._pulls: dict[str, dict[str, float]] = {}
        #: Plain channels whose consumer is there.
        self._made: set[tuple[str, int | None]] = set()
        #: The smallest difference seen between our clock and the server's time of a job.  A job's
        #: age is the difference beyond it.
        self._offset = float("inf")

    # The queues

    def _stream(self, capacity: int | None) -> str:
        return f"{self._prefix}_jobs_{capacity or 0}"

    def _subject(self, channel: str, capacity: int | None) -> str:
        return f"{self._prefix}.q.{capacity or 0}.{escape(channel)}"

    async def _make_stream(self, capacity: int | None) -> None:
        limits: dict[str, Any] = {"max_msgs_per_subject": -1}
        if capacity is not None:
            limits = {"max_msgs_per_subject": capacity, "discard_new_per_subject": True}
        await self._streams.make(
            self._stream(capacity),
            {
                "subjects": [self._subject(">", capacity)],
                "retention": "workqueue",
                "storage": "memory",
                "discard": "new",
                "max_age": int(self._expiry * 1e9),
                **limits,
            },
        )

    async def _make_consumer(self, channel: str, capacity: int | None) -> None:
        stream, name = self._stream(capacity), escape(channel)
        config = {
            "durable_name": name,
            "filter_subject": self._subject(channel, capacity),
            "ack_policy": "explicit",
            "ack_wait": int(self._expiry * 1e9),
            "max_deliver": 1,
            "max_waiting": 10_000,
            "max_ack_pending": -1,
            # It forgets what it has delivered, which has expired by then.
            "inactive_threshold": int((self._expiry + 3600) * 1e9),
        }
        what = {"stream_name": stream, "config": config}
        for _ in range(2):
            made = await self._requests.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", **what)
            if code_of(made) != NO_STREAM:
                break
            await self._make_stream(capacity)
        if code_of(made):
            raise StoreUnavailable(f"JetStream refuses the queue {channel}: {said_by(made)}")
        self._made.add((channel, capacity))

    # Putting

    async def put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        """False if the stream refuses it: again a moment later, for acknowledgements take one."""
        if await self._put(channel, data, ttl, capacity):
            return True
        await asyncio.sleep(ACKNOWLEDGED)
        return await self._put(channel, data, ttl, capacity)

    async def _put(self, channel: str, data: bytes, ttl: float, capacity: int | None) -> bool:
        subject, payload = self._subject(channel, capacity), TTL.pack(ttl) + data
        answer = await self._requests.ask(subject, payload)
        if answer.status == NO_RESPONDERS:
            if self._requests.lack:
                raise StoreUnavailable(self._requests.lack)
            await self._make_stream(capacity)
            answer = await self._requests.ask(subject, payload)
        if answer.status:
            raise StoreUnavailable("JetStream does not answer: the stream has no leader yet")
        said = json.loads(answer.data)
        if code_of(said) == FULL:
            return False
        if code_of(said):
            raise StoreUnavailable(f"JetStream refuses a job: {said_by(said)}")
        return True

    # Taking

    def want(self, channel: str, capacity: int | None, total: int) -> Future[None] | None:
        """Requests the jobs that are not requested yet.  See `Link`."""
        with self._lock:
            self._wanted[channel] = capacity, total
        return self._request(channel)

    def _request(self, channel: str) -> Future[None] | None:
        with self._lock:
            capacity, total = self._wanted.get(channel, (None, 0))
            if total <= len(self._pulls.setdefault(channel, {})):
                return None
            is_made = (channel, capacity) in self._made
        if not is_made:
            making = self._make_and_pull(channel, capacity)
            return asyncio.run_coroutine_threadsafe(making, self._loop)
        self._pull(channel, capacity)
        return None

    async def _make_and_pull(self, channel: str, capacity: int | None) -> None:
        if self._requests.lack:
            raise StoreUnavailable(self._requests.lack)
        await self._make_consumer(channel, capacity)
        self._pull(channel, capacity)

    def _pull(self, channel: str, capacity: int | None) -> None:
        requests, commands = self._requests, []
        consumer = f"{self._stream(capacity)}.{escape(channel)}"
        with self._lock:
            pulls = self._pulls[channel]
            while len(pulls) < self._wanted.get(channel, (capacity, 0))[1]:
                number = f"p{requests.number()}"
                pulls[number] = ticks() + PULL
                reply = f"{requests.inbox}.{number}"
                commands.append(pub(f"$JS.API.CONSUMER.MSG.NEXT.{consumer}", ONE, reply))
            requests.client.write_only(b"".join(commands))  # in the order of their numbers

    def take(self, subject: str, reply: str, payload: bytes) -> None:
        """Takes a job that the server has delivered."""
        if self._streams.replicas > 1:
            self._keep(partial(self._claim, subject, reply, payload))
        else:
            self._requests.client.write_only(pub(reply, b""))
            self._taken(subject, reply, payload, is_ours=True)

    async def _claim(self, subject: str, reply: str, payload: bytes) -> None:
        """With replicas, a new leader may not know that a job was delivered.  So the process that
        deletes it from the stream owns it."""
        delivery = Delivery.of(reply)
        what = {"seq": delivery.sequence, "no_erase": True}
        until = ticks() + self._expiry
        is_ours = False
        while ticks() < until and not self._requests.are_over:
            try:
                deleting = self._requests.api(f"STREAM.MSG.DELETE.{delivery.stream}", **what)
                said = await asyncio.wait_for(deleting, STEP)
            except (StoreUnavailable, TimeoutError, asyncio.TimeoutError):
                await asyncio.sleep(AGAIN)  # there is no leader now
                continue
            is_ours = bool(said.get("success"))
            break
        self._requests.client.write_only(pub(reply, b""))
        self._taken(subject, reply, payload, is_ours=is_ours)

    def _taken(self, subject: str, reply: str, payload: bytes, *, is_ours: bool) -> None:
        channel = unescape(subject.rpartition(".")[2])
        is_ours = is_ours and len(payload) >= TTL.size
        age = ticks() - Delivery.of(reply).at
        with self._lock:
            pulls = self._pulls.get(channel)
            if pulls:
                del pulls[next(iter(pulls))]
            capacity, total = self._wanted.get(channel, (None, 0))
            if is_ours:
                self._wanted[channel] = capacity, max(0, total - 1)
                self._offset = min(self._offset, age)
        if not is_ours:
            self._again(channel, 0)
            return
        ttl = TTL.unpack_from(payload)[0] - (age - self._offset)
        self._came(channel, payload[TTL.size :], ttl)

    def ended(self, number: str, status: str) -> None:
        """A pull request has ended: it has expired, or its consumer is gone."""
        with self._lock:
            ended = [each for each, pulls in self._pulls.items() if pulls.pop(number, None)]
            for channel in ended:
                capacity, _ = self._wanted.get(channel, (None, 0))
                if status != EXPIRED:
                    self._made.discard((channel, capacity))
        for channel in ended:
            self._again(channel, 0 if status == EXPIRED else AGAIN)

    def renew(self) -> None:
        """Repeats old requests that were never answered."""
        renewed = set()
        with self._lock:
            for channel, pulls in self._pulls.items():
                for number in [each for each, until in pulls.items() if ticks() > until + STEP]:
                    del pulls[number]
                    renewed.add(channel)
        for channel in renewed:
            self._again(channel, 0)

    def _again(self, channel: str, after: float) -> None:
        """Requests, after so many seconds, what is still wanted."""

        async def again() -> None:
            await asyncio.sleep(after)
            wanting = self._request(channel)
            if wanting is not None:
                with suppress(StoreUnavailable):  # `renew`, or the next link
                    await asyncio.wrap_future(wanting)

        self._keep(again)
