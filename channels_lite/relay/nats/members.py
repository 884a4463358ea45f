"""The plain channels in groups: subjects of a stream on disk.

A further subject says that a group has any.  It is read first, because most groups have none.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Settings
from channels_lite.relay.nats.client import STEP
from channels_lite.relay.nats.requests import (
    AGAIN,
    NO_STREAM,
    Reply,
    Requests,
    code_of,
    said_by,
)
from channels_lite.relay.nats.streams import Streams
from channels_lite.relay.wire import escape, unescape

__all__ = ["Members"]

# Seconds for which a group's plain channels are waited for, where a cluster has no leader.
NO_LEADER = 0.5

#: The answer whether a group has any; None: it could not be asked yet.
Asked = dict[str, "asyncio.Future[Reply] | None"]


class Members:
    """Knows whether the stream is there."""

    def __init__(self, settings: Settings, requests: Requests, streams: Streams) -> None:
        self._prefix = settings.prefix
        self._group_expiry = settings.group_expiry
        self._requests = requests
        self._streams = streams
        self._stream = f"{settings.prefix}_members"
        self._is_made = asyncio.Event()

    async def make(self) -> None:
        """Makes the stream, as soon as a cluster has a leader for it."""
        while not self._requests.are_over:  # before Python 3.12 wait_for() may swallow the end
            try:
                await asyncio.wait_for(self._make(), STEP)
            except (StoreUnavailable, TimeoutError, asyncio.TimeoutError):
                await asyncio.sleep(AGAIN)
            else:
                self._is_made.set()
                return

    async def _make(self) -> None:
        config: dict[str, Any] = {
            "subjects": [f"{self._prefix}.m.>"],
            "storage": "file",
            "max_msgs_per_subject": 1,
            "allow_direct": True,
            "max_age": int(self._group_expiry * 1e9),
        }
        await self._streams.make(self._stream, config)

    def _subject(self, group: str, channel: str = "") -> str:
        name = f"{self._prefix}.m.{escape(group)}"
        return f"{name}.{escape(channel)}" if channel else name

    async def join(self, group: str, channel: str) -> None:
        """Its subject, and then that of the group, which says that there are any."""
        lack = self._requests.lack
        for subject in (self._subject(group, channel), self._subject(group)):
            answer = await self._requests.ask(subject)
            if answer.status and not lack:
                await self._make()
                answer = await self._requests.ask(subject)
            if answer.status:
                raise StoreUnavailable(lack or "JetStream does not answer")
            if code_of(said := json.loads(answer.data)):
                raise StoreUnavailable(f"JetStream refuses a membership: {said_by(said)}")

    async def leave(self, group: str, channel: str) -> None:
        """Deletes its subject."""
        subject = self._subject(group, channel)
        said = await self._requests.api(f"STREAM.PURGE.{self._stream}", filter=subject)
        if code_of(said) not in (0, NO_STREAM):
            raise StoreUnavailable(f"JetStream keeps a membership: {said_by(said)}")

    async def of(self, group: str) -> list[str]:
        """The subjects below that of the group."""
        if self._requests.lack:
            return []
        name = self._subject(group)
        said = await self._requests.api(f"STREAM.INFO.{self._stream}", subjects_filter=f"{name}.>")
        found = (said.get("state") or {}).get("subjects") or {}
        return sorted(unescape(each[len(name) + 1 :]) for each in found)

    def begin(self, group: str) -> tuple[asyncio.Future[Reply] | None, bytes]:
        """What asks whether a group has any, and its answer; `finish` waits for it."""
        if not self._is_made.is_set():
            return None, b""  # nobody would answer
        return self._requests.begin(f"$JS.API.DIRECT.GET.{self._stream}.{self._subject(group)}")

    async def finish(self, group: str, answer: asyncio.Future[Reply] | None) -> list[str]:
        """The plain channels in a group, for which `begin` has asked."""
        try:
            return await asyncio.wait_for(self._finish(group, answer), NO_LEADER)
        except (TimeoutError, asyncio.TimeoutError):
            return []

    async def _finish(self, group: str, answer: asyncio.Future[Reply] | None) -> list[str]:
        if answer is None:
            await self._is_made.wait()
        elif (await answer).status:
            return []
        return await self.of(group)
