"""The log of groups with a history, with a relay: it is in the engine, one for all nodes.

The engine gives each message its id, and so decides the order.  It publishes to the processes with
members that there is a new one.  What it says is only a hint, as a wake-up is: the process then
reads the log after the id up to which it has read.  Memberships are in the node's table, with
the id after which they get messages.

A position is an id, and a stamp of the group and of the engine's log: after a flush, or if the
engine has lost its data, it is unknown.

Thread: any; it reads the engine on the relay's loop, which has the state that it adds to `log`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any

from channels_lite.clock import ticks
from channels_lite.delivery.departures import Departures
from channels_lite.delivery.log import CHUNK, Log, without_history
from channels_lite.delivery.relayed import Begins, RelayedSending
from channels_lite.errors import StoreUnavailable
from channels_lite.history import MOST, Joined, Limit, Position
from channels_lite.relay import Head, Page, Recent
from channels_lite.relay.relay import Relay
from channels_lite.relay.wire import Entry
from channels_lite.store import Done, Outcome, history

__all__ = ["RelayedLog"]

# Groups of which it is remembered that messages are gone; more are only those with members here.
MANY = 1000


class RelayedLog(Log):
    """See `Log`."""

    def __init__(
        self, *, relay: Relay, departures: Departures, sending: RelayedSending, **parts: Any
    ) -> None:
        super().__init__(**parts)
        self._relay = relay
        self._departures = departures
        self._sending = sending
        #: The ids up to which messages are gone that members may not have got: of all groups, and
        #: by group.  On the relay's loop.
        self._floor = 0
        self._gone: dict[str, int] = {}
        #: When everything was read that was there; messages after that are younger.
        self._level_at = ticks()

    def _limit(self, group: str) -> Limit:
        limit = self.limits(group)
        if limit is None:
            raise without_history(group)
        return limit

    # Append

    async def append(self, group: str, data: bytes, expiry: float) -> None:
        """See `Log.append`.  Raises ``StoreUnavailable`` if the engine is unavailable."""
        entry = Entry(group, self._serializer.encrypt(data), expiry)
        await self._departures.append(entry, self._limit(group))
        self._stats.group_sent += 1
        self._stats.appended += 1

    # Join and read

    async def join(
        self,
        group: str,
        channel: str,
        expiry: float,
        position: Position | None,
        and_then: Callable[[str, str, int], None],
    ) -> Joined:
        """See `Log.join`.  ``and_then`` is called where the channel belongs."""
        is_complete, begin = await self._place(group, position)
        begins = Begins(begin.id, position is not None)
        await self._sending.join(group, channel, expiry, begins=begins)
        return Joined(is_complete, str(begin))

    async def _place(self, group: str, position: Position | None) -> tuple[bool, Position]:
        row = 0 if position is None else position.id
        page = await self._relay.call(self._read, group, row, 0)
        stamp = _stamp_of(page.head, group)
        if position is not None:
            is_of_this = position.stamp == stamp
            if is_of_this and page.trimmed <= position.id <= page.head.last:
                return True, position
        here = Position(page.newest or page.head.last, stamp)
        return position is None, here

    async def _before(self, group: str, most: int | None) -> int:
        limit = self._limit(group)
        most = limit.messages if most is None else most
        return await self._relay.call(
            self._relay.connection.do, lambda link: link.before(group, most, limit)
        )

    async def _page(self, group: str, row: int, most: int) -> history.After:
        page = await self._relay.call(self._read, group, row, most)
        return self._after(group, page, is_member=False)

    async def _read(self, group: str, row: int, most: int) -> Page:
        limit = self._limit(group)
        return await self._relay.connection.do(lambda link: link.after(group, row, most, limit))

    def _after(self, group: str, page: Page, *, is_member: bool) -> history.After:
        named = [(group, *row) for row in page.rows]
        rows = [remembered for _, remembered in self._remembered(page.head, named)]
        return history.After(rows, page.is_all, page.head.last, page.trimmed, is_member)

    def _remembered(
        self, head: Head, rows: Iterable[tuple[str, int, bytes]]
    ) -> Iterator[tuple[str, history.Remembered]]:
        """Their time is that of reading, because the engine has another clock."""
        now = self._clock.now_or_origin()
        for group, row, data in rows:
            yield group, history.Remembered(row, _stamp_of(head, group), now, data)

    # Be woken

    def news(self, asked: history.Asked, done: Done[history.News]) -> None:
        """See `Log.news`."""
        self._begin_to(self._news(asked, done), done)

    async def _news(self, asked: history.Asked, done: Done[history.News]) -> None:
        def limit_of(group: str) -> Limit | None:
            return None if asked.known(group) is None else self.limits(group)

        row, began = asked.row if asked.has_members else None, ticks()
        age = began - self._level_at
        found = await self._relay.connection.do(lambda link: link.recent(row, age, limit_of))
        if found.head.last < asked.row:  # with the clock set back: what is known of ids is void
            self._floor, self._gone = 0, {}
        if asked.has_members:
            self._note_gone(found, asked)
        rows = [
            history.New(group, max(self._floor, self._gone.get(group, 0)), remembered)
            for group, remembered in self._remembered(found.head, found.rows)
        ]
        # The members after the rows, as in a table.
        is_all = found.through == found.head.last
        if is_all:
            self._level_at = began
        work = partial(history.members, asked=asked, rows=rows, last=found.through, is_all=is_all)
        self._store.submit(work, done)

    def _note_gone(self, found: Recent, asked: history.Asked) -> None:
        """A member may be told of it later, with its next message."""
        self._floor = max(self._floor, found.floor)
        self._gone |= found.trimmed
        if len(self._gone) > MANY:
            self._gone = {
                group: row for group, row in self._gone.items() if asked.known(group) is not None
            }

    def after(self, group: str, row: int, membership: int, done: Done[history.After]) -> None:
        """See `Log.after`."""
        self._begin_to(self._after_of(group, row, membership, done), done)

    async def _after_of(
        self, group: str, row: int, membership: int, done: Done[history.After]
    ) -> None:
        page = await self._read(group, row, CHUNK)

        def is_member(outcome: Outcome[bool]) -> None:
            if outcome.error is not None:
                done(Outcome(error=outcome.error))
            else:
                done(Outcome(self._after(group, page, is_member=outcome.result())))

        now = self._clock.now_or_origin()
        work = partial(history.is_member, group=group, membership=membership, now=now)
        self._store.submit(work, is_member)

    def _begin_to(self, reading: Coroutine[Any, Any, None], done: Done[Any]) -> None:
        """Runs it on the relay's loop; ``done`` gets its error."""

        async def read() -> None:
            try:
                await reading
            except Exception as error:  # noqa: BLE001 - passed to the receiver of the outcome
                done(Outcome(error=error))

        try:
            self._relay.require_thread()
        except StoreUnavailable as error:
            reading.close()
            done(Outcome(error=error))
        else:
            self._relay.soon(lambda: self._relay.keep(read()))


def _stamp_of(head: Head, group: str) -> int:
    """The same for all positions of one group in one log, and for no others."""
    digest = hashlib.blake2b(f"{head.epoch} {group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & MOST
