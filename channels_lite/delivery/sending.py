"""SEND: the recipients of a message, its expiry, and its transaction.

`local` and `outgoing` transport it.  Thread: the sender's loop.  It has no state, so no lock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from channels_lite import signals
from channels_lite.clock import Clock
from channels_lite.delivery.arrivals import channels_of
from channels_lite.delivery.generation import Generations
from channels_lite.delivery.groups import Groups
from channels_lite.delivery.local import Local
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.missed import Missed
from channels_lite.delivery.outgoing import Outgoing
from channels_lite.delivery.stats import Stats
from channels_lite.names import split
from channels_lite.store import Execute, sql
from channels_lite.store.django import tell_committed, transaction_of_caller

__all__ = ["Sending"]


class Sending:
    """Addresses messages, and changes groups.  Inside ``atomic()``, in the caller's transaction."""

    def __init__(
        self,
        *,
        database: str,
        clock: Clock,
        generations: Generations,
        local: Local,
        outgoing: Outgoing,
        groups: Groups,
        missed: Missed,
        stats: Stats,
    ) -> None:
        self._database = database
        self._clock = clock
        self._generations = generations
        self._local = local
        self._outgoing = outgoing
        self._groups = groups
        self._missed = missed
        self._stats = stats

    async def send(self, channel: str, data: bytes, expiry: float) -> bool:
        """Sends to one receiver of ``channel``.  False: it is full, and nothing was sent."""
        now = self._clock.now() or await self._generations.ask()
        name, recipient = split(channel)
        is_callers = transaction_of_caller(self._database) is not None
        tell_committed()
        local = self._local
        if not is_callers and recipient and local.takes(name):
            message = Message(0, data, now + expiry, now)
            full = local.put([channel], message, now)
            missed = await local.settle(full, message) if full or local.owes_turn else 0
        else:
            envelopes = [sql.Envelope(name, recipient, channel, data, now, now + expiry)]
            outgoing = self._outgoing
            sent = outgoing.insert(envelopes) if is_callers else outgoing.send(envelopes)
            missed = sent if isinstance(sent, int) else await sent
        if missed:
            self._stats.full += 1
            signals.send(signals.channel_full, self._database, channel=channel, group=None, count=1)
            # A sender that retries at once would block the loop.
            await local.yield_loop()
            return False
        self._stats.sent += 1
        return True

    async def group_send(self, group: str, data: bytes, expiry: float) -> None:
        """Sends to every member of ``group``.  Full members miss it."""
        local, outgoing = self._local, self._outgoing
        now = self._clock.now() or await self._generations.ask()
        members: list[sql.Member] = []
        missed = 0

        def address(members: list[sql.Member]) -> list[sql.Envelope]:
            return [
                sql.Envelope(name, recipients, "", data, now, now + expiry)
                for name, recipients, _ in members
            ]

        def operation(execute: Execute, batch: sql.Batch) -> int:
            members[:] = sql.group_members(execute, group, now)
            return sql.insert_all(execute, batch, outgoing.encrypted(address(members)))

        if transaction_of_caller(self._database) is not None:
            missed = await outgoing.write(operation)
        else:
            members = await outgoing.read(partial(self._groups.members, group=group, now=now))
            tell_committed()
            message = Message(0, data, now + expiry, now)
            away = []
            for member in members:
                if local.takes(member.name):
                    channels = channels_of(member.name, member.recipients)
                    missed += await local.put_all(channels, message)
                else:
                    away.append(member)
            if away:
                sent = outgoing.send(address(away))
                missed += sent if isinstance(sent, int) else await sent
        self._stats.group_sent += 1
        if missed:
            self._missed.by_group(group, missed, members[0].name)

    async def join(
        self,
        group: str,
        channel: str,
        expiry: float,
        and_then: Callable[[None], None] = lambda _: None,
    ) -> None:
        """Makes ``channel`` a member for ``expiry`` seconds from now; calls ``and_then`` then."""
        now = self._clock.now() or await self._generations.ask()

        def operation(execute: Execute, batch: sql.Batch) -> None:
            sql.join(execute, group, channel, batch.now, now + expiry)

        await self._outgoing.write(operation, and_then)

    async def leave(
        self, group: str, channel: str, and_then: Callable[[None], None] = lambda _: None
    ) -> None:
        """Ends a membership, if there is one; calls ``and_then`` then."""

        def operation(execute: Execute, batch: sql.Batch) -> None:
            batch.members.pop(group, None)
            sql.leave(execute, group, channel)

        await self._outgoing.write(operation, and_then)

    async def members(self, group: str) -> list[str]:
        """The full names of the members, sorted."""
        now = self._clock.now() or await self._generations.ask()
        find = partial(sql.group_members, group=group, now=now)
        if transaction_of_caller(self._database) is not None:
            members = await self._outgoing.write(lambda execute, _: find(execute))
        else:
            members = await self._outgoing.read(find)
        return sorted(
            member.name + recipient
            for member in members
            for recipient in member.recipients.split(",")
        )
