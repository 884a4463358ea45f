"""Reads messages of a JetStream stream: one by one, or by a consumer that is made for the purpose.

A new consumer says how many messages it has, so these are pulled, and nothing is waited for.  It is
deleted at once.

Fact: with a wildcard, this number may be wrong (nats-server 2.9 leaves messages out where others
were deleted; the releases after it have counted too many).  So it never says that a reader has
everything.

Thread: the relay's loop; messages come on any thread.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Any, NamedTuple

from channels_lite.errors import StoreUnavailable
from channels_lite.loops import resolve
from channels_lite.relay.nats.client import pub
from channels_lite.relay.nats.jobs import Delivery
from channels_lite.relay.nats.requests import NO_STREAM, Requests, code_of, said_by

__all__ = ["Found", "Reader", "nanoseconds", "require"]

# JetStream's error for a message that is not there.
NO_MESSAGE = 10037
# Bytes that a read returns, if it is not one message.
READ_BYTES = 256 * 1024
# Messages of one pull, of which only the headers are read.
BATCH = 10_000
# More than any sequence number.
MOST = 2**63
# Nanoseconds after which the server forgets a consumer that was not deleted.
INACTIVE = 5_000_000_000


class Found(NamedTuple):
    """A message in the stream."""

    subject: str
    sequence: int
    data: bytes


class Consumer(NamedTuple):
    """``pending``: how many messages it has had when it was made, at ``now``, by the server
    in nanoseconds since 1970."""

    name: str
    pending: int
    now: int


class _Reading:
    """Messages that a consumer delivers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: list[Found] = []
        self.is_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Reader:
    """Owns the readings under way."""

    def __init__(self, stream: str, requests: Requests) -> None:
        self._stream = stream
        self._requests = requests
        #: By consumer.
        self._readings: dict[str, _Reading] = {}

    async def get(self, **which: Any) -> Found | None:
        """One message; None if there is none."""
        said = await self._requests.api(f"STREAM.MSG.GET.{self._stream}", **which)
        if code_of(said) in (NO_MESSAGE, NO_STREAM):
            return None
        found = require(said)["message"]
        data = base64.b64decode(found.get("data", ""))
        return Found(found["subject"], found["seq"], data)

    # Consumers, each for one reading

    async def read(
        self, subject: str, start: int, last: int, most: int
    ) -> tuple[list[Found], bool]:
        """The first messages from ``start`` on, and whether these are all up to ``last``.

        None is left out.  They are at most ``most``, and not much more than `READ_BYTES`.
        """
        async with self._consumer(subject, _from(start)) as consumer:
            count = min(consumer.pending, most)
            found = await self._pull(consumer, count, max_bytes=READ_BYTES) if count else []
            if count and not found:
                found = await self._pull(consumer, 1)
        end = found[-1].sequence if found else start - 1
        if end >= last:
            return found, True
        following = await self.get(next_by_subj=subject, seq=end + 1)
        if following is None or following.sequence > last:
            return found, True
        return found or [following], False

    async def sequences(self, subject: str, start: int, least: int) -> list[int]:
        """The numbers of the messages from ``start`` on; none if they are fewer than ``least``."""
        found: list[int] = []
        async with self._consumer(subject, _from(start), headers_only=True) as consumer:
            while consumer.pending > len(found) and consumer.pending >= least:
                some = await self._pull(consumer, min(consumer.pending - len(found), BATCH))
                if not some:
                    break  # the others were deleted meanwhile
                found += [each.sequence for each in some]
        return found

    async def count(self, subject: str, seconds: float) -> int:
        """The number of messages that are not older, by the server's clock."""
        async with self._consumer(subject, _from(MOST)) as consumer:
            since = datetime.fromtimestamp(consumer.now / 1e9 - seconds, timezone.utc)
        begin = {"deliver_policy": "by_start_time", "opt_start_time": since.isoformat()}
        async with self._consumer(subject, begin) as consumer:
            return consumer.pending

    @asynccontextmanager
    async def _consumer(
        self, subject: str, begin: dict[str, Any], *, headers_only: bool = False
    ) -> AsyncIterator[Consumer]:
        config = {
            **begin,
            "filter_subject": subject,
            "ack_policy": "none",
            "replay_policy": "instant",
            "headers_only": headers_only,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE,
        }
        what = {"stream_name": self._stream, "config": config}
        made = require(await self._requests.api(f"CONSUMER.CREATE.{self._stream}", **what))
        try:
            yield Consumer(made["name"], made["num_pending"], nanoseconds(made["created"]))
        finally:
            name = f"$JS.API.CONSUMER.DELETE.{self._stream}.{made['name']}"
            self._requests.client.write_only(pub(name, b""))

    async def _pull(self, consumer: Consumer, count: int, **limits: int) -> list[Found]:
        asked = json.dumps({"batch": count, "no_wait": True, **limits}).encode()
        name = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer.name}"
        reading = self._readings[consumer.name] = _Reading(count)
        ended, command = self._requests.begin(name, asked)
        self._requests.client.write_only(command)
        both: set[asyncio.Future[Any]] = {ended, reading.is_done}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
            return reading.found
        finally:
            ended.cancel()
            del self._readings[consumer.name]

    def take(self, subject: str, reply: str, data: bytes) -> None:
        """Takes a message that the server has delivered."""
        delivery = Delivery.of(reply)
        reading = self._readings.get(delivery.consumer)
        if reading is not None:
            reading.found.append(Found(subject, delivery.sequence, data))
            if len(reading.found) == reading.count:
                resolve(reading.is_done, None)


def _from(start: int) -> dict[str, Any]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": start}


def require(said: dict[str, Any]) -> dict[str, Any]:
    """Raises ``StoreUnavailable`` if it is an error."""
    if code_of(said):
        raise StoreUnavailable(f"JetStream refuses a history: {said_by(said)}")
    return said


def nanoseconds(text: str) -> int:
    """A time of JetStream, such as 2026-01-31T09:15:14.48158639Z."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    whole = datetime.fromisoformat(f"{seconds}+00:00").timestamp()
    return int(whole) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)
