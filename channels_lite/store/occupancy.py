"""CAPACITY of a plain channel, whose mailbox is the table: whether there is room for a row."""

from __future__ import annotations

from collections.abc import Callable

from channels_lite.store import Execute

__all__ = ["Occupancy"]

COUNT = """
    SELECT (SELECT count(*) FROM
                (SELECT 1 FROM channels_lite_event WHERE channel_name = ? LIMIT ?)),
           coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event'), 0)
"""
DROP_EXPIRED = "DELETE FROM channels_lite_event WHERE channel_name = ? AND expires_at <= ?"

#: What no last id is between.
NOWHERE = (0, -1)


class Occupancy:
    """How full plain channels are, without counting for each message.

    A channel that had room for n messages when the table's last id was i has room as long as ids
    stay below i + n, whoever inserts and wherever.  Only beyond that does it take a new count; and
    below i, where ids have begun anew (``manage.py flush``).
    """

    #: Channels remembered at most.
    LIMIT = 10_000

    def __init__(self, capacity: Callable[[str], int | None]) -> None:
        #: Messages that may wait on a plain channel; None: any number.
        self._capacity = capacity
        self._safe: dict[str, tuple[int, int]] = {}

    def safe(self, channel: str) -> tuple[int, int]:
        """Between which last ids, both included, ``channel`` has room for sure."""
        return self._safe.get(channel, NOWHERE)

    def forget(self) -> None:
        """Ids have begun again."""
        self._safe.clear()

    def unremembered(self) -> Occupancy:
        """The same for a transaction that may be rolled back, and its ids with it."""
        return Occupancy(self._capacity)

    def count(self, execute: Execute, channel: str, now: float) -> bool:
        """Counts, and remembers.  Whether there is room.  In a transaction."""
        capacity = self._capacity(channel)
        if capacity is None:
            self._remember(channel, (0, 2**63 - 1))
            return True
        [(waiting, last)] = execute(COUNT, (channel, capacity))
        if waiting >= capacity:
            # Only now are expired rows told apart: it costs a look-up for each.
            execute(DROP_EXPIRED, (channel, now))
            [(waiting, last)] = execute(COUNT, (channel, capacity))
        room = capacity - waiting
        self._remember(channel, (last, last + room - 1))
        return bool(room > 0)

    def _remember(self, channel: str, safe: tuple[int, int]) -> None:
        if len(self._safe) >= self.LIMIT:
            self._safe.clear()
        self._safe[channel] = safe
