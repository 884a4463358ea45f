"""SEND with a relay: whether a message stays on the node, leaves it, or both.

The name of a process-local channel contains its node.  A group message goes to the members on the
node as without a relay, and is published once for all other nodes.  Plain channels and their
memberships are only in the engine, so workers may run on any node.

Thread: the sender's loop, or the relay's loop if another process asks.  It has no state, so no
lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from channels_lite import signals
from channels_lite.delivery.departures import Departures
from channels_lite.delivery.roster import Roster
from channels_lite.delivery.sending import Sending
from channels_lite.errors import StoreUnavailable
from channels_lite.names import split, token_of
from channels_lite.relay import Link
from channels_lite.relay.relay import Relay
from channels_lite.relay.wire import Entry, Membership
from channels_lite.serializers import BaseMessageSerializer
from channels_lite.store import Execute, history, sql
from channels_lite.store.django import tell_committed, transaction_of_caller

__all__ = ["Begins", "RelayedSending"]


class Begins(NamedTuple):
    """From where a membership in a group with a history gets messages."""

    #: The id after which they are.
    after: int
    #: Whether an existing membership begins there, too.
    is_anew: bool


class RelayedSending(Sending):
    """Addresses messages across nodes.  `Sending` does the work on this node."""

    def __init__(
        self,
        *,
        relay: Relay,
        roster: Roster,
        departures: Departures,
        serializer: BaseMessageSerializer,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self._relay = relay
        self._roster = roster
        self._departures = departures
        self._serializer = serializer
        #: Called with the id of a new membership in a group with a history.
        self.entered: Callable[[str, str, int], None] = lambda *_: None

    def _is_here(self, channel: str) -> bool:
        """Whether a process-local channel belongs to this node, or to none."""
        bang = channel.find("!")
        token_at = channel.rfind(".", 0, bang) + 1
        return token_at == bang or channel.startswith(self._relay.node, token_at)

    # Messages

    def send(self, channel: str, data: bytes, expiry: float) -> Coroutine[Any, Any, bool]:
        """See `Sending.send`.  Across nodes, only a plain channel returns False."""
        if "!" in channel and self._is_here(channel):
            return super().send(channel, data, expiry)  # as it is, without a coroutine around it
        return self._send_away(channel, data, expiry)

    async def _send_away(self, channel: str, data: bytes, expiry: float) -> bool:
        entry = Entry(channel, self._serializer.encrypt(data), expiry)
        if "!" in channel:
            subject = self._relay.subjects.process(token_of(channel))
            await self._departures.publish(subject, entry)
        elif not await self._departures.put(entry):
            self._stats.full += 1
            signals.send(signals.channel_full, self._database, channel=channel, group=None, count=1)
            return False
        self._stats.sent += 1
        self._stats.relayed += 1
        return True

    async def group_send(self, group: str, data: bytes, expiry: float) -> None:
        """See `Sending.group_send`.  If other nodes miss the message, it is only counted."""
        publisher, departures = self._relay.publisher, self._departures
        entry = Entry(group, self._serializer.encrypt(data), expiry)
        publisher.require_room(entry)
        subject = self._relay.subjects.group(group)
        caller = transaction_of_caller(self._database)
        if caller is not None:
            await super().group_send(group, data, expiry)
            await departures.publish_committed(caller, subject, entry, is_group=True)
            return
        tell_committed()
        await departures.catch_up()
        post = publisher.begin(subject, entry, is_group=True)  # it travels during the local send
        await super().group_send(group, data, expiry)
        try:
            members = await publisher.finish(post)
        except StoreUnavailable as error:
            departures.was_missed(f"a message to group {group}", error)
            return
        self._stats.relayed += 1
        if members:
            await self._relay.call(departures.put_each, entry, members)

    # Groups

    async def join(
        self,
        group: str,
        channel: str,
        expiry: float,
        and_then: Callable[[None], None] = lambda _: None,
        begins: Begins | None = None,
    ) -> None:
        """See `Sending.join`.  When it returns, messages from other nodes to the group arrive.

        ``begins`` is for groups with a history.
        """
        if "!" not in channel:
            await self._in_engine(lambda link: link.join(group, channel, expiry))
        elif token_of(channel) == self._relay.token:
            await self._join_own(group, channel, expiry, begins)
        elif self._is_here(channel):
            await self._join_row(group, channel, expiry, and_then, begins)
            await self._tell_neighbour(group, channel, expiry)
        else:
            await self._ask(group, channel, expiry, begins)

    async def _join_row(
        self,
        group: str,
        channel: str,
        expiry: float,
        and_then: Callable[[None], None],
        begins: Begins | None,
    ) -> None:
        """Writes the membership."""
        if begins is None:
            await super().join(group, channel, expiry, and_then)
            return
        now = self._clock.now() or await self._generations.ask()

        def operation(execute: Execute, batch: sql.Batch) -> int:
            with batch.transaction(execute):
                return history.enter(
                    execute,
                    group,
                    channel,
                    now=batch.now,
                    expires_at=now + expiry,
                    after=begins.after,
                    is_anew=begins.is_anew,
                )

        def tell(membership: int) -> None:
            and_then(None)
            self.entered(group, channel, membership)
            self._outgoing.wake([split(channel)[0]])

        await self._outgoing.write(operation, tell)

    async def _join_own(
        self, group: str, channel: str, expiry: float, begins: Begins | None
    ) -> None:
        relay, roster = self._relay, self._roster
        if not relay.groups.is_subscribed(group, enters=True):
            with suppress(StoreUnavailable):  # `Relay` subscribes when the engine is back
                await relay.call(relay.groups.enter, group)
        is_callers = transaction_of_caller(self._database) is not None
        now = self._clock.now() or await self._generations.ask()
        try:
            await self._join_row(
                group, channel, expiry, lambda _: roster.add(group, channel, now + expiry), begins
            )
        finally:
            (relay.groups.hold if is_callers else relay.groups.entered)(group)

    async def leave(
        self, group: str, channel: str, and_then: Callable[[None], None] = lambda _: None
    ) -> None:
        """See `Sending.leave`."""
        if "!" not in channel:
            await self._in_engine(lambda link: link.leave(group, channel))
        elif token_of(channel) == self._relay.token:
            await super().leave(group, channel, lambda _: self._left(group, channel))
        elif self._is_here(channel):
            await super().leave(group, channel, and_then)
            await self._tell_neighbour(group, channel, 0)
        else:
            await self._ask(group, channel, 0)

    def _left(self, group: str, channel: str) -> None:
        self._roster.discard(group, channel)
        if not self._roster.has_members(group):
            self._relay.groups.left(group)

    async def _tell_neighbour(self, group: str, channel: str, expiry: float) -> None:
        """Tells a process of this node.  If that fails, the process reads it in the table later."""
        with suppress(StoreUnavailable):
            await self._ask(group, channel, expiry)

    async def _ask(
        self, group: str, channel: str, expiry: float, begins: Begins | None = None
    ) -> None:
        """Changes a membership in the process of a channel."""
        asked = Membership(self._relay.node, group, channel, expiry, *(begins or ()))
        await self._elsewhere(self._relay.envelopes.ask, asked, token_of(channel))

    async def _in_engine(self, verb: Callable[[Link], Awaitable[None]]) -> None:
        """Changes the membership of a plain channel."""
        await self._elsewhere(self._relay.connection.do, verb)

    async def _elsewhere(self, change: Callable[..., Any], *args: Any) -> None:
        """Changes a membership that is not in the table, after the caller's commit."""
        caller = transaction_of_caller(self._database)
        if caller is None:
            await self._departures.catch_up()
            await self._relay.call(change, *args)
        else:
            work = partial(change, *args)
            await self._departures.after(caller, "a change of a membership", work)

    async def members(self, group: str) -> list[str]:
        """See `Sending.members`: the members on this node, and plain channels."""
        relay = self._relay
        plain = await relay.call(relay.connection.do, lambda link: link.members(group))
        here = [channel for channel in await super().members(group) if "!" in channel]
        return sorted(here + plain)
