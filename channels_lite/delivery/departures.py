"""SEND to the engine: at once, or, inside ``atomic()``, after the caller's commit.

After the commit a failure can no longer be raised.  So it is counted, and logged at most once per
minute.

Thread: any.  A lock guards the count.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from channels.exceptions import MessageTooLarge

from channels_lite.delivery.capacity import Capacities
from channels_lite.delivery.missed import Missed
from channels_lite.delivery.stats import Stats
from channels_lite.errors import StoreUnavailable
from channels_lite.history import Limit
from channels_lite.relay import Link
from channels_lite.relay.posts import Post
from channels_lite.relay.relay import Relay
from channels_lite.relay.wire import Appended, Entry, encode
from channels_lite.store.django import after_commit_of, tell_committed, transaction_of_caller

__all__ = ["Departures"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]

# Seconds between two warnings.
EVERY = 60.0


class Departures:
    """Publishes messages, puts jobs, and counts what other nodes miss."""

    def __init__(
        self, relay: Relay, database: str, capacities: Capacities, missed: Missed, stats: Stats
    ) -> None:
        self._relay = relay
        self._database = database
        self._capacities = capacities
        self._missed = missed
        self._stats = stats
        self._lock = threading.Lock()
        #: Messages that other nodes missed since the last warning, and the time of that warning.
        self._missed_since = 0
        self._said_at = 0.0

    # At once

    async def catch_up(self) -> None:
        """Lets messages of earlier transactions go first."""
        if self._relay.committed.is_behind:
            await self._relay.call(self._relay.committed.caught_up)

    async def publish(self, subject: str, entry: Entry) -> None:
        """Publishes to a process.  Raises ``StoreUnavailable`` and ``MessageTooLarge``."""
        publisher = self._relay.publisher
        caller = transaction_of_caller(self._database)
        tell_committed()
        if caller is not None:
            publisher.require_room(entry)
            await self.publish_committed(caller, subject, entry, is_group=False)
            return
        await self.catch_up()
        await publisher.publish(subject, entry)

    async def put(self, entry: Entry) -> bool:
        """Puts a job.  False: its channel is full.  Raises the same."""
        work = partial(self._put, entry), partial(self._put_committed, entry)
        return await self._request(entry, f"a job for {entry.name}", *work) is not False

    async def _put(self, entry: Entry) -> bool:
        capacity = self._capacities.messages(entry.name)
        return await self._do(entry, lambda link: link.put(*entry, capacity))

    async def append(self, entry: Entry, limit: Limit) -> None:
        """Appends to the history of a group.  Raises the same."""
        work = partial(self._append, entry, limit)
        await self._request(entry, f"a message to the history of {entry.name}", work, work)

    async def _append(self, entry: Entry, limit: Limit) -> None:
        told = self._relay.subjects.group(entry.name), encode(Appended())
        members = await self._do(entry, lambda link: link.append(*entry[:2], limit, told))
        self._stats.relayed += 1
        if members:
            await self.put_each(entry, members)

    async def _request(
        self,
        entry: Entry,
        what: str,
        now: Callable[[], Coroutine[Any, Any, T]],
        after_commit: Work,
    ) -> T | None:
        """Does ``now``; or ``after_commit`` after the commit of the caller, and returns None."""
        self._relay.publisher.require_room(entry)
        caller = transaction_of_caller(self._database)
        tell_committed()
        if caller is not None:
            await self.after(caller, what, after_commit, len(entry.data))
            return None
        await self.catch_up()
        return await self._relay.call_link(now)

    async def _do(self, entry: Entry, verb: Callable[[Link], Awaitable[T]]) -> T:
        relay = self._relay
        await relay.connection.wait()
        relay.publisher.require_room(entry)  # before, the limit may not have been known
        relay.budget.take(len(entry.data))
        try:
            return await relay.connection.do(verb)
        finally:
            relay.budget.give_back(len(entry.data))

    async def put_each(self, entry: Entry, channels: list[str]) -> None:
        """Puts a group message into its plain channels.  Full channels miss it."""
        puts = (self._put(entry._replace(name=channel)) for channel in channels)
        results = await asyncio.gather(*puts, return_exceptions=True)
        full = [each for each, is_put in zip(channels, results, strict=True) if is_put is False]
        if full:
            self._missed.by_group(entry.name, len(full), full[0])
        for error in results:
            if isinstance(error, StoreUnavailable):
                self.was_missed(f"a message to group {entry.name}", error)
            elif isinstance(error, BaseException):
                raise error

    # After a commit

    async def publish_committed(
        self, caller: Any, subject: str, entry: Entry, *, is_group: bool
    ) -> None:
        """Publishes a message after the commit of ``caller``, its transaction."""
        publish = partial(self._publish_committed, subject, entry, is_group=is_group)
        await after_commit_of(caller, self._database, publish)

    def _publish_committed(self, subject: str, entry: Entry, *, is_group: bool) -> None:
        if self._relay.committed.is_behind:
            work = partial(self._publish_later, subject, entry, is_group=is_group)
            self._add(f"a message to {entry.name}", work, len(entry.data))
        else:
            post = Post(subject, entry, is_group=is_group, then=self._was_published)
            self._relay.publisher.post(post)

    async def _publish_later(self, subject: str, entry: Entry, *, is_group: bool) -> None:
        members = await self._relay.publisher.publish(subject, entry, is_group=is_group)
        if members:
            await self.put_each(entry, members)
        self._stats.relayed += 1

    def _was_published(self, post: Post) -> None:
        if post.error is not None:
            self.was_missed(f"a message to {post.entry.name}", post.error)
            return
        self._stats.relayed += 1
        relay, entry, members = self._relay, post.entry, post.members
        if members:
            relay.on_loop(lambda: relay.finish(self.put_each(entry, members)))

    async def _put_committed(self, entry: Entry) -> None:
        if not await self._put(entry):
            self._missed.by_group("(a transaction)", 1, entry.name)

    async def after(self, caller: Any, what: str, work: Work, size: int = 0) -> None:
        """Does ``work`` after the commit of ``caller``, its transaction, and after earlier work."""
        await after_commit_of(caller, self._database, partial(self._add, what, work, size))

    def _add(self, what: str, work: Work, size: int) -> None:
        try:
            self._relay.committed.add(partial(self._counted, what, work), size)
        except StoreUnavailable as error:
            self.was_missed(what, error)

    async def _counted(self, what: str, work: Work) -> None:
        try:
            await work()
        except (StoreUnavailable, MessageTooLarge) as error:
            self.was_missed(what, error)

    def was_missed(self, what: str, error: Exception) -> None:
        """Counts it, and warns at most once per minute."""
        self._stats.relay_missed += 1
        now = time.monotonic()
        with self._lock:
            self._missed_since += 1
            if self._said_at and now - self._said_at < EVERY:
                return
            count, self._missed_since, self._said_at = self._missed_since, 0, now
        logger.warning("other nodes missed %d messages, such as %s: %s", count, what, error)
