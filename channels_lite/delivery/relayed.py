"""SEND with a relay: whether a message stays on the node, leaves it, or both.

The name of a process-local channel contains its node.  A group message goes to the members on the
node as without a relay, and is published once for all other nodes.  Plain channels and their
memberships are only in the engine, so workers may run on any node.

Inside ``atomic()``, a message that leaves the node is published after the commit.  A failure can
then no longer be raised, so it is counted.

Thread: the sender's loop, or the relay's loop if another process asks.  A lock guards the count of
missed messages.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from channels.exceptions import MessageTooLarge

from channels_lite import signals
from channels_lite.delivery.capacity import Capacities
from channels_lite.delivery.roster import Roster
from channels_lite.delivery.sending import Sending
from channels_lite.errors import StoreUnavailable
from channels_lite.names import token_of
from channels_lite.relay.connection import Relay
from channels_lite.relay.node import node_of
from channels_lite.relay.posts import Post
from channels_lite.relay.wire import Entry, Membership
from channels_lite.serializers import BaseMessageSerializer
from channels_lite.store.django import after_commit_of, tell_committed, transaction_of_caller

__all__ = ["RelayedSending"]

logger = logging.getLogger(__name__)

# Seconds between two warnings.
EVERY = 60.0


class RelayedSending(Sending):
    """Addresses messages across nodes.  `Sending` does the work on this node."""

    def __init__(
        self,
        *,
        relay: Relay,
        roster: Roster,
        capacities: Capacities,
        serializer: BaseMessageSerializer,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self._relay = relay
        self._roster = roster
        self._capacities = capacities
        self._serializer = serializer
        self._counting = threading.Lock()
        #: Messages that other nodes missed since the last warning, and the time of that warning.
        self._missed_since = 0
        self._said_at = 0.0

    def _is_here(self, channel: str) -> bool:
        """Whether a process-local channel belongs to this node, or to none."""
        token = token_of(channel)
        return not token or node_of(token) == self._relay.node

    # Messages

    async def send(self, channel: str, data: bytes, expiry: float) -> bool:
        """See `Sending.send`.  Across nodes, only a plain channel returns False."""
        if "!" in channel and self._is_here(channel):
            return await super().send(channel, data, expiry)
        entry = Entry(channel, self._serializer.encrypt(data), expiry)
        if "!" in channel:
            await self._publish(self._relay.subjects.process(token_of(channel)), entry)
        elif not await self._put(entry):
            self._stats.full += 1
            signals.send(signals.channel_full, self._database, channel=channel, group=None, count=1)
            return False
        self._stats.sent += 1
        self._stats.relayed += 1
        return True

    async def _publish(self, subject: str, entry: Entry) -> None:
        self._relay.require_room(entry)
        caller = transaction_of_caller(self._database)
        tell_committed()
        if caller is None:
            await self._catch_up()
            await self._relay.publish(subject, entry)
            return
        publish = partial(self._publish_committed, subject, entry, is_group=False)
        await after_commit_of(caller, self._database, publish)

    async def _catch_up(self) -> None:
        """Lets messages of earlier transactions go first."""
        if self._relay.is_behind:
            await self._relay.call(self._relay.caught_up)

    def _publish_committed(self, subject: str, entry: Entry, *, is_group: bool) -> None:
        if self._relay.is_behind:
            self._relay.later(partial(self._publish_later, subject, entry, is_group=is_group))
        else:
            self._relay.post(Post(subject, entry, is_group=is_group, then=self._was_published))

    async def _publish_later(self, subject: str, entry: Entry, *, is_group: bool) -> None:
        """Publishes a message of a committed transaction, after an earlier change of it."""
        try:
            members = await self._relay.publish(subject, entry, is_group=is_group)
            if members:
                await self._put_each(entry, members)
        except (StoreUnavailable, MessageTooLarge) as error:
            self._was_missed(f"a message to {entry.name}", error)
        else:
            self._stats.relayed += 1

    async def _put(self, entry: Entry) -> bool:
        self._relay.require_room(entry)
        caller = transaction_of_caller(self._database)
        tell_committed()
        if caller is None:
            await self._catch_up()
            return await self._relay.call(self._put_now, entry)
        put = partial(self._relay.later, partial(self._put_later, entry))
        await after_commit_of(caller, self._database, put)
        return True

    async def _put_now(self, entry: Entry) -> bool:
        await self._relay.wait()
        self._relay.require_room(entry)  # before, the limit may not have been known
        capacity = self._capacities.messages(entry.name)
        return await self._relay.do(lambda link: link.put(*entry, capacity))

    async def _put_later(self, entry: Entry) -> None:
        """Puts a job of a committed transaction."""
        try:
            is_put = await self._put_now(entry)
        except StoreUnavailable as error:
            self._was_missed(f"a job for {entry.name}", error)
            return
        if not is_put:
            self._missed.by_group("(a transaction)", 1, entry.name)

    async def group_send(self, group: str, data: bytes, expiry: float) -> None:
        """See `Sending.group_send`.  If other nodes miss the message, it is only counted."""
        relay = self._relay
        entry = Entry(group, self._serializer.encrypt(data), expiry)
        relay.require_room(entry)
        subject = relay.subjects.group(group)
        caller = transaction_of_caller(self._database)
        if caller is not None:
            await super().group_send(group, data, expiry)
            publish = partial(self._publish_committed, subject, entry, is_group=True)
            await after_commit_of(caller, self._database, publish)
            return
        tell_committed()
        await self._catch_up()
        post = relay.begin(subject, entry, is_group=True)  # it travels during the local send
        await super().group_send(group, data, expiry)
        try:
            members = await relay.finish(post)
        except StoreUnavailable as error:
            self._was_missed(f"a message to group {group}", error)
            return
        self._stats.relayed += 1
        if members:
            await relay.call(self._put_each, entry, members)

    async def _put_each(self, entry: Entry, channels: list[str]) -> None:
        """Puts a group message into its plain channels.  Full channels miss it."""
        puts = (self._put_now(entry._replace(name=channel)) for channel in channels)
        results = await asyncio.gather(*puts, return_exceptions=True)
        full = [each for each, is_put in zip(channels, results, strict=True) if is_put is False]
        if full:
            self._missed.by_group(entry.name, len(full), full[0])
        for error in results:
            if isinstance(error, StoreUnavailable):
                self._was_missed(f"a message to group {entry.name}", error)
            elif isinstance(error, BaseException):
                raise error

    def _was_published(self, post: Post) -> None:
        """After a commit, on the relay's loop."""
        if post.error is not None:
            self._was_missed(f"a message to {post.entry.name}", post.error)
        else:
            self._stats.relayed += 1
            if post.members:
                self._relay.spawn(partial(self._put_each, post.entry, post.members))

    def _was_missed(self, what: str, error: Exception) -> None:
        """Counts it, and warns at most once per minute."""
        self._stats.relay_missed += 1
        now = time.monotonic()
        with self._counting:
            self._missed_since += 1
            if self._said_at and now - self._said_at < EVERY:
                return
            count, self._missed_since, self._said_at = self._missed_since, 0, now
        logger.warning("other nodes missed %d messages, such as %s: %s", count, what, error)

    # Groups

    async def join(
        self,
        group: str,
        channel: str,
        expiry: float,
        and_then: Callable[[None], None] = lambda _: None,
    ) -> None:
        """See `Sending.join`.  When it returns, messages from other nodes to the group arrive."""
        relay = self._relay
        token = token_of(channel)
        if "!" not in channel:
            await self._elsewhere(partial(relay.do, lambda link: link.join(group, channel, expiry)))
        elif token == relay.token:
            await self._join_own(group, channel, expiry)
        elif self._is_here(channel):
            await super().join(group, channel, expiry, and_then)
            await self._tell_neighbour(Membership(relay.node, group, channel, expiry), token)
        else:
            asked = Membership(relay.node, group, channel, expiry)
            await self._elsewhere(partial(relay.ask, asked, token))

    async def _join_own(self, group: str, channel: str, expiry: float) -> None:
        relay, roster = self._relay, self._roster
        if not relay.groups.is_subscribed(group, enters=True):
            with suppress(StoreUnavailable):  # `Relay` subscribes when the engine is back
                await relay.call(relay.groups.enter, group)
        is_callers = transaction_of_caller(self._database) is not None
        now = self._clock.now() or await self._generations.ask()
        try:
            await super().join(
                group, channel, expiry, lambda _: roster.add(group, channel, now + expiry)
            )
        finally:
            (relay.groups.hold if is_callers else relay.groups.entered)(group)

    async def leave(
        self, group: str, channel: str, and_then: Callable[[None], None] = lambda _: None
    ) -> None:
        """See `Sending.leave`."""
        relay = self._relay
        token = token_of(channel)
        if "!" not in channel:
            await self._elsewhere(partial(relay.do, lambda link: link.leave(group, channel)))
        elif token == relay.token:
            await super().leave(group, channel, lambda _: self._left(group, channel))
        elif self._is_here(channel):
            await super().leave(group, channel, and_then)
            await self._tell_neighbour(Membership(relay.node, group, channel, 0), token)
        else:
            await self._elsewhere(
                partial(relay.ask, Membership(relay.node, group, channel, 0), token)
            )

    def _left(self, group: str, channel: str) -> None:
        self._roster.discard(group, channel)
        if not self._roster.has_members(group):
            self._relay.groups.left(group)

    async def _tell_neighbour(self, asked: Membership, token: str) -> None:
        """Tells a process of this node.  If that fails, the process reads it in the table later."""
        with suppress(StoreUnavailable):
            await self._elsewhere(partial(self._relay.ask, asked, token))

    async def _elsewhere(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Changes a membership in the engine or another process, after the caller's commit."""
        caller = transaction_of_caller(self._database)
        if caller is None:
            await self._catch_up()
            await self._relay.call(change)
            return

        async def after_commit() -> None:
            try:
                await change()
            except StoreUnavailable as error:
                self._was_missed("a change of a membership", error)

        await after_commit_of(caller, self._database, partial(self._relay.later, after_commit))

    async def members(self, group: str) -> list[str]:
        """See `Sending.members`: the members on this node, and plain channels."""
        relay = self._relay
        plain = await relay.call(relay.do, lambda link: link.members(group))
        here = [channel for channel in await super().members(group) if "!" in channel]
        return sorted(here + plain)
