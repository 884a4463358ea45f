"""The log of groups with a history: append, read after, and be woken.

Everything that knows where the log is, is here and in `store.history`: `histories` only asks for
what is new and for what is after an id.  Here it is a table.  A process that has appended wakes the
processes with members, as for a row.  With a relay, `relayed_log` puts it into the engine.

Thread: the caller's loop.  The counts of appended messages may be slightly wrong, so no lock.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured

from channels_lite.clock import Clock
from channels_lite.delivery.generation import Generations
from channels_lite.delivery.groups import Groups
from channels_lite.delivery.missed import Missed
from channels_lite.delivery.outgoing import Outgoing
from channels_lite.delivery.stats import Stats
from channels_lite.history import Joined, Limits, Position
from channels_lite.names import split
from channels_lite.serializers import BaseMessageSerializer
from channels_lite.store import Done, Execute, Outcome, Store, history, sql, trimming
from channels_lite.store.django import tell_committed, transaction_of_caller

__all__ = ["CHUNK", "Log", "without_history"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Rows that one read returns to a member that catches up.
CHUNK = 250
# A process that appends more than this, and more than an eighth of what the group keeps, trims the
# group itself, because the next sweep may be far.
FLOOD = 1000
FLOOD_SHARE = 8
#: The maximum number of counted groups.
COUNTED = 10_000
#: The maximum number of remembered messages that could not be decoded.
DROPPED = 1000


class Log:
    """The tables of histories."""

    def __init__(
        self,
        *,
        database: str,
        limits: Limits,
        store: Store,
        serializer: BaseMessageSerializer,
        clock: Clock,
        generations: Generations,
        groups: Groups,
        outgoing: Outgoing,
        missed: Missed,
        stats: Stats,
        is_trimming: bool,
    ) -> None:
        self._database = database
        #: What each group keeps.
        self.limits = limits
        self._store = store
        self._serializer = serializer
        self._clock = clock
        self._generations = generations
        self._groups = groups
        self._outgoing = outgoing
        self._missed = missed
        self._stats = stats
        self._is_trimming = is_trimming
        #: By group, the messages appended since it was trimmed.
        self._appended: Counter[str] = Counter()
        #: Positions of messages that could not be decoded.
        self._dropped: set[str] = set()

    # Append

    async def append(self, group: str, data: bytes, expiry: float) -> None:
        """Adds a message.  Plain channels in the group get a row, which expires as others do."""
        now = self._clock.now() or await self._generations.ask()
        encrypted = self._serializer.encrypt(data)
        is_callers = transaction_of_caller(self._database) is not None
        tell_committed()

        def operation(execute: Execute, batch: sql.Batch) -> int:
            members, version = self._members(execute, batch, group, is_callers=is_callers)
            if all(member.name.endswith("!") for member in members):
                # If this is the only write of a batch, it needs no transaction.
                if version != history.append(execute, group, batch.now, encrypted):
                    batch.members.pop(group, None)
                    batch.wakes_all = True
                batch.woken.update(member.name for member in members)
                return 0
            with batch.transaction(execute):
                history.append(execute, group, batch.now, encrypted)
                members = sql.group_members(execute, group, batch.now)
                batch.woken.update(each.name for each in members if each.name.endswith("!"))
                plain = [
                    sql.Envelope(each.name, "", "", encrypted, now, now + expiry)
                    for each in members
                    if not each.name.endswith("!")
                ]
                return sql.insert_all(execute, batch, plain)

        missed = await self._outgoing.write(operation)
        self._stats.group_sent += 1
        self._stats.appended += 1
        if missed:
            self._missed.by_group(group, missed, group)
        if self._is_trimming and not is_callers:
            self._count(group)

    def _members(
        self, execute: Execute, batch: sql.Batch, group: str, *, is_callers: bool
    ) -> tuple[list[sql.Member], int | None]:
        """The members, which the writes of a batch read once, and their version."""
        known = batch.members.get(group)
        if known is None:
            if is_callers:
                version = sql.group_version(execute, group)
                known = sql.group_members(execute, group, batch.now), version
            else:
                known = self._groups.members_of(execute, group, batch.now)
            batch.members[group] = known
        return known

    def _count(self, group: str) -> None:
        if len(self._appended) > COUNTED:
            self._appended.clear()
        self._appended[group] += 1
        limit = self.limits(group)
        if limit is None or self._appended[group] < max(FLOOD, limit.messages // FLOOD_SHARE):
            return
        self._appended[group] = 0
        self._trim(group)

    def _trim(self, group: str) -> None:
        limit = self.limits(group)
        if limit is None:
            return

        def done(outcome: Outcome[tuple[int, bool]]) -> None:
            if outcome.value is not None:  # otherwise the next sweep does it
                self._stats.trimmed += outcome.value[0]

        name, now = group.encode(), self._clock.now()
        work = partial(trimming.trim, group=name, limit=limit, now=now, most=2 * FLOOD)
        self._store.submit(work, done)

    # Join and read

    async def join(
        self,
        group: str,
        channel: str,
        expiry: float,
        position: Position | None,
        and_then: Callable[[str, str, int], None],
    ) -> Joined:
        """Makes ``channel`` a member, from ``position`` or from now on.

        Calls ``and_then`` then, with the id of the membership.
        """
        now = self._clock.now() or await self._generations.ask()

        def operation(execute: Execute, batch: sql.Batch) -> tuple[Joined, int]:
            with batch.transaction(execute):
                batch.members.pop(group, None)
                return history.join(
                    execute,
                    group,
                    channel,
                    now=batch.now,
                    expires_at=now + expiry,
                    position=position,
                )

        def tell(joined: tuple[Joined, int]) -> None:
            and_then(group, channel, joined[1])
            self._outgoing.wake([split(channel)[0]])

        return (await self._outgoing.write(operation, tell))[0]

    async def read(
        self, group: str, position: Position | None, limit: int | None
    ) -> tuple[list[history.Remembered], bool, Position]:
        """Messages after ``position``; whether it is known; and where they end.

        Without a known position, the last messages.
        """
        is_complete, end = await self._place(group, position)
        if position is not None and is_complete:
            row = position.id
        else:
            row = await self._before(group, limit)
        rows: list[history.Remembered] = []
        is_all = False
        while not is_all and (limit is None or len(rows) < limit):
            most = CHUNK if limit is None else min(CHUNK, limit - len(rows))
            found = await self._page(group, row, most)
            if found.trimmed > row and (rows or (position is not None and row == position.id)):
                is_complete = False
            rows += found.rows
            row, is_all = (rows[-1].id if rows else row), found.is_all
        return rows, is_complete, rows[-1].position if rows else end

    async def _place(self, group: str, position: Position | None) -> tuple[bool, Position]:
        """Whether everything after ``position`` is there, and from where to read then.

        Without a position, or if it is unknown, that is the end.
        """
        if not self._clock.now():
            await self._generations.ask()
        is_complete = position is None or await self._query(
            partial(history.is_known, group=group, position=position)
        )
        if position is not None and is_complete:
            return True, position
        here = await self._query(partial(history.last, group=group))
        return is_complete, await self._begin(group) if here is None else here

    async def _begin(self, group: str) -> Position:
        def operation(execute: Execute, batch: sql.Batch) -> Position:
            with batch.transaction(execute):
                return history.here(execute, group, batch.now)

        return await self._outgoing.write(operation)

    async def _before(self, group: str, most: int | None) -> int:
        """The id after which the last ``most`` messages are; None: all of them."""
        if most is None:
            return 0
        return await self._query(partial(history.before, group=group, most=most))

    async def _page(self, group: str, row: int, most: int) -> history.After:
        return await self._query(partial(history.after, group=group, row=row, most=most))

    async def _query(self, query: Callable[[Execute], T]) -> T:
        if transaction_of_caller(self._database) is not None:
            return await self._outgoing.write(lambda execute, _: query(execute))
        return await self._outgoing.read(query)

    def drop(self, group: str, position: str, error: Exception) -> None:
        """Counts a message that cannot be decoded, and logs it once, whoever reads it."""
        self._stats.undecodable += 1
        if position not in self._dropped:
            if len(self._dropped) >= DROPPED:
                self._dropped.clear()
            self._dropped.add(position)
            logger.error("a message to the group %s was dropped: %s", group, error)

    # Be woken

    def news(self, asked: history.Asked, done: Done[history.News]) -> None:
        """Reads what is new, and passes it to ``done``.  Call it on a running loop."""
        self._store.submit(partial(history.news, asked=asked), done)

    def after(self, group: str, row: int, membership: int, done: Done[history.After]) -> None:
        """Reads the first messages after this id, for a member that catches up."""
        now = self._clock.now_or_origin()
        work = partial(
            history.after, group=group, row=row, most=CHUNK, membership=membership, now=now
        )
        self._store.submit(work, done)


def without_history(group: str) -> ImproperlyConfigured:
    """The error for what needs a history."""
    return ImproperlyConfigured(
        f"the group {group!r} has no history: add a pattern that matches it to "
        "CONFIG['group_history'], such as "
        f'{{"{group}": {{"messages": 100, "seconds": 3600}}}}'
    )
