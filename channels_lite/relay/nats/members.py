"""The plain channels in groups: subjects of a stream on disk.

A further subject says that a group has any.  It is read first, because most groups have none.

Thread: the relay's loop, except where a docstring says "any loop" or "any thread".
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from channels_lite.clock import ticks
from channels_lite.errors import StoreUnavailable
from channels_lite.loops import call_on
from channels_lite.relay import Published, Settings, confirmed, failed
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

__all__ = ["Members", "Publication"]

# Seconds for which a group's plain channels are waited for, where a cluster has no leader.
NO_LEADER = 0.5


class Publication:
    """What was published to groups, and the question for their plain channels.

    It is done even if its loop has ended.  Thread: any.  One lock guards all state.
    """

    def __init__(self, groups: Iterable[str]) -> None:
        self.published: Published = Future()
        #: Until when the plain channels are waited for.
        self.until = ticks() + NO_LEADER
        self._lock = threading.Lock()
        self._is_written = False
        self._unknown = set(groups)
        self._members: dict[str, list[str]] = {}

    def begin(self) -> None:
        """Counts the time on the running loop."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(NO_LEADER, self.give_up)
        self.published.add_done_callback(lambda _: call_on(loop, timer.cancel))

    def written(self, written: Published) -> None:
        """The server has what was published, or not."""
        error = written.exception()
        if error is not None:
            failed(self.published, error)
            return
        with self._lock:
            self._is_written = True
        self._check()

    def found(self, group: str, channels: list[str]) -> None:
        """The plain channels of a group."""
        with self._lock:
            self._unknown.discard(group)
            if channels:
                self._members[group] = channels
        self._check()

    def give_up(self) -> None:
        """Waits no longer for plain channels, because the cluster has no leader."""
        with self._lock:
            self._unknown.clear()
        self._check()

    def _check(self) -> None:
        with self._lock:
            is_done = self._is_written and not self._unknown
        if is_done:
            confirmed(self.published, self._members)


class Members:
    """Knows whether the stream is there."""

    def __init__(
        self,
        settings: Settings,
        requests: Requests,
        streams: Streams,
        keep: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self._prefix = settings.prefix
        self._group_expiry = settings.group_expiry
        self._requests = requests
        self._streams = streams
        self._stream = f"{settings.prefix}_members"
        #: Runs a coroutine on the relay's loop until the link is lost.
        self._keep = keep
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

    def ask(self, group: str, publication: Publication) -> bytes:
        """What asks whether a group has any.  Any loop."""
        if not self._is_made.is_set():
            self._keep(partial(self._find, group, publication))
            return b""  # nobody would answer
        subject = f"$JS.API.DIRECT.GET.{self._stream}.{self._subject(group)}"
        answered = partial(self._answered, group, publication)
        number, command = self._requests.call(answered, subject)
        publication.published.add_done_callback(lambda _: self._requests.forget(number))
        return command

    def _answered(
        self, group: str, publication: Publication, reply: Reply | None, error: Exception | None
    ) -> None:
        """Any thread."""
        if reply is None or reply.status:
            publication.found(group, [])  # if the link is lost, it fails anyway
        else:
            self._keep(partial(self._find, group, publication))

    async def _find(self, group: str, publication: Publication) -> None:
        await self._is_made.wait()
        try:
            publication.found(group, await self.of(group))
        except StoreUnavailable as error:
            failed(publication.published, error)
