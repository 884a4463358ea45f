"""The pull requests by which plain channels get jobs from JetStream.

There is one pull request for each waiting coroutine.  It ends when it is served, or expires.  Then
another one replaces it while the coroutine waits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from channels_lite.clock import ticks
from channels_lite.errors import StoreUnavailable
from channels_lite.relay.wire import escape, unescape

__all__ = ["AGAIN", "STEP", "TTL", "Delivery", "Queues", "code_of", "pub", "said_by"]

#: Seconds of one step of connecting.
STEP = 2.0
# Seconds for which a job is asked for; it is asked for again then.
PULL = 20.0
#: Seconds before a queue whose consumer is gone is asked again.
AGAIN = 0.2
# Of JetStream's errors: a stream that is not there.  Of statuses: a pull request has expired.
NO_STREAM, EXPIRED = 10059, "408"
#: What is before the data of a job: seconds that it had to live when it was put.
TTL = struct.Struct("!d")


class JetStream(Protocol):
    """The link, as its queues know it."""

    lack: str

    @property
    def inbox(self) -> str:
        """Where answers come; one more part says which."""

    @property
    def expiry(self) -> float:
        """Seconds."""

    def write(self, commands: bytes) -> None:
        """Writes commands without confirmation."""

    def job_came(self, channel: str, data: bytes, ttl: float) -> None:
        """Tells the layer."""

    def stream(self, capacity: int | None) -> str:
        """The stream of the plain channels with this capacity."""

    def queue(self, channel: str, capacity: int | None) -> str:
        """The subject of a plain channel."""

    async def make_queue(self, capacity: int | None) -> None:
        """Creates the stream for this capacity."""

    async def api(self, name: str, /, **what: Any) -> dict[str, Any]:
        """What JetStream answers; an error is part of it."""


class Delivery(NamedTuple):
    """What a subject for acknowledgements says."""

    stream: str
    sequence: int
    #: When the job was put, by the server's clock.
    at: float

    @classmethod
    def of(cls, reply: str) -> Delivery:
        """``$JS.ACK.stream.consumer.delivered.sequence...``; two parts more where there are
        domains."""
        parts = reply.split(".")[2 if len(reply.split(".")) == 9 else 4 :]
        return cls(parts[0], int(parts[3]), int(parts[5]) / 1e9)


class Queues:
    """The requested jobs that have not arrived."""

    def __init__(self, link: JetStream) -> None:
        self._link = link
        #: By plain channel: its capacity, and how many are still wanted.
        self._wanted: dict[str, tuple[int | None, int]] = {}
        #: By plain channel: the pull requests under way, one for a job, and until when; they are
        #: served in their order.
        self._pulls: dict[str, dict[str, float]] = {}
        #: Plain channels whose consumer is there.
        self._made: set[tuple[str, int | None]] = set()
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        #: The smallest difference seen between our clock and the server's time of a job.  A job's
        #: age is the difference beyond it.
        self._offset = float("inf")

    async def want(self, channel: str, capacity: int | None, total: int) -> None:
        """Requests the jobs that are not requested yet."""
        link = self._link
        self._wanted[channel] = capacity, total
        pulls = self._pulls.setdefault(channel, {})
        if total <= len(pulls):
            return
        if link.lack:
            raise StoreUnavailable(link.lack)
        if (channel, capacity) not in self._made:
            await self._make(channel, capacity)
        commands = []
        request = json.dumps({"batch": 1, "expires": int(PULL * 1e9)}).encode()
        consumer = f"{link.stream(capacity)}.{escape(channel)}"
        while len(pulls) < self._wanted.get(channel, (capacity, 0))[1]:
            number = f"p{next(self._numbers):x}"
            pulls[number] = ticks() + PULL
            reply = f"{link.inbox}.{number}"
            commands.append(pub(f"$JS.API.CONSUMER.MSG.NEXT.{consumer}", request, reply))
        link.write(b"".join(commands))

    async def _make(self, channel: str, capacity: int | None) -> None:
        link = self._link
        stream, name = link.stream(capacity), escape(channel)
        config = {
            "durable_name": name,
            "filter_subject": link.queue(channel, capacity),
            "ack_policy": "explicit",
            "ack_wait": int(link.expiry * 1e9),
            "max_deliver": 1,
            "max_waiting": 10_000,
            "max_ack_pending": -1,
            # It forgets what it has delivered, which has expired by then.
            "inactive_threshold": int((link.expiry + 3600) * 1e9),
        }
        what = {"stream_name": stream, "config": config}
        for _ in range(2):
            made = await link.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", **what)
            if code_of(made) != NO_STREAM:
                break
            await link.make_queue(capacity)
        if code_of(made):
            raise StoreUnavailable(f"JetStream refuses the queue {channel}: {said_by(made)}")
        self._made.add((channel, capacity))

    def take(self, subject: str, reply: str, payload: bytes, *, is_ours: bool = True) -> None:
        """Takes a job, which is already acknowledged."""
        channel = unescape(subject.rpartition(".")[2])
        pulls = self._pulls.get(channel)
        if pulls:
            del pulls[next(iter(pulls))]
        capacity, total = self._wanted.get(channel, (None, 0))
        if not is_ours or len(payload) < TTL.size:
            self._again(channel, capacity, 0)
            return
        self._wanted[channel] = capacity, max(0, total - 1)
        age = ticks() - Delivery.of(reply).at
        self._offset = min(self._offset, age)
        ttl = TTL.unpack_from(payload)[0] - (age - self._offset)
        self._link.job_came(channel, payload[TTL.size :], ttl)

    def ended(self, number: str, status: str) -> None:
        """A pull request has ended: it has expired, or its consumer is gone."""
        for channel, pulls in self._pulls.items():
            if pulls.pop(number, None) is not None:
                capacity, total = self._wanted.get(channel, (None, 0))
                if status != EXPIRED:
                    self._made.discard((channel, capacity))
                if total > len(pulls):
                    self._again(channel, capacity, 0 if status == EXPIRED else AGAIN)

    def renew(self) -> None:
        """Repeats old requests that were never answered."""
        for channel, pulls in self._pulls.items():
            late = [number for number, until in pulls.items() if ticks() > until + STEP]
            for number in late:
                del pulls[number]
            capacity, total = self._wanted.get(channel, (None, 0))
            if late and total > len(pulls):
                self._again(channel, capacity, 0)

    def _again(self, channel: str, capacity: int | None, after: float) -> None:
        async def again() -> None:
            await asyncio.sleep(after)
            _, total = self._wanted.get(channel, (capacity, 0))
            with suppress(StoreUnavailable):  # `renew`, or the next link
                await self.want(channel, capacity, total)

        task = asyncio.get_running_loop().create_task(again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def pub(subject: str, payload: bytes, reply: str = "") -> bytes:
    return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(payload), payload)


def code_of(said: dict[str, Any]) -> int:
    """JetStream's error, 0 for none."""
    return int((said.get("error") or {}).get("err_code", 0))


def said_by(said: dict[str, Any]) -> str:
    return str((said.get("error") or {}).get("description", said))
