"""CAPACITY: whether a channel has room for another row."""

from __future__ import annotations

from collections.abc import Callable

from channels_lite.store import Execute

__all__ = ["Rooms"]

COUNT = """
    SELECT (SELECT count(*) FROM
                (SELECT 1 FROM channels_lite_event WHERE channel_name = ? AND id > ? LIMIT ?)),
           EXISTS (SELECT 1 FROM channels_lite_event WHERE channel_name = ?),
           coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event'), 0)
"""
DROP_EXPIRED = "DELETE FROM channels_lite_event WHERE channel_name = ? AND expires_at <= ?"

#: What no last id is between.
NOWHERE = (0, -1)


class Rooms:
    """How full channels are, without counting for each message.

    A channel that had room for n messages when the table's last id was i has room as long as ids
    stay below i + n, whoever inserts and wherever.  Only beyond that does it take a new count; and
    below i, where ids have begun anew (``manage.py flush``).

    Capacity holds for the non-local part of a name, shared by all its channels, until the receiving
    process has read a row; from then on for each of its channels, by the receiver's buffer.  A
    full buffer shows across processes as a row that is parked under the channel's full name.
    """

    #: Channels remembered at most.
    LIMIT = 10_000

    def __init__(
        self,
        capacity: Callable[[str], int | None],
        seen: Callable[[str], int],
        buffered: Callable[[str], int],
    ) -> None:
        #: Most messages that may wait on a channel; None: no limit.
        self._capacity = capacity
        #: Behind which id a name's rows count: a process does not count what it has read itself.
        self._seen = seen
        #: Messages of a channel that wait in this process's memory.
        self._buffered = buffered
        self._safe: dict[str, tuple[int, int]] = {}

    def safe(self, channel: str) -> tuple[int, int]:
        """Between which last ids, both included, ``channel`` has room for sure."""
        return self._safe.get(channel, NOWHERE)

    def unremembered(self) -> Rooms:
        """The same for a transaction that may be rolled back, and its ids with it."""
        return Rooms(self._capacity, self._seen, self._buffered)

    def count(self, execute: Execute, name: str, channel: str, now: float) -> bool:
        """Counts, and remembers.  Whether there is room.  In a transaction."""
        limit = self._capacity(channel)
        if limit is None:
            self._remember(channel, (0, 2**63 - 1))
            return True
        parked = channel if channel != name else None
        asked = (name, self._seen(name), limit, parked)
        [(waiting, is_parked, last)] = execute(COUNT, asked)
        if waiting >= limit or is_parked:
            # Only now are expired rows told apart: it costs a look-up for each.
            execute(DROP_EXPIRED, (name, now))
            execute(DROP_EXPIRED, (parked, now))
            [(waiting, is_parked, last)] = execute(COUNT, asked)
        room = 0 if is_parked else limit - waiting - self._buffered(channel)
        self._remember(channel, (last, last + room - 1))
        return room > 0

    def _remember(self, channel: str, safe: tuple[int, int]) -> None:
        if len(self._safe) >= self.LIMIT:
            self._safe.clear()
        self._safe[channel] = safe
