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

#: A range that contains no id.
NOWHERE = (0, -1)


class Occupancy:
    """How full plain channels are, without counting for each message.

    If a channel had room for n messages when the table's last id was i, it has room as long as ids
    stay below i + n, whichever process inserts.  A new count is needed only above that, and below
    i, because ids have then started again (``manage.py flush``).
    """

    #: The maximum number of remembered channels.
    LIMIT = 10_000

    def __init__(self, capacity: Callable[[str], int | None]) -> None:
        #: Messages that may wait on a plain channel; None: any number.
        self._capacity = capacity
        self._safe: dict[str, tuple[int, int]] = {}

    def safe(self, channel: str) -> tuple[int, int]:
        """The range of last ids, both included, in which ``channel`` certainly has room."""
        return self._safe.get(channel, NOWHERE)

    def forget(self) -> None:
        """Ids have started again."""
        self._safe.clear()

    def unremembered(self) -> Occupancy:
        """One that remembers nothing, for a transaction that may be rolled back with its ids."""
        return Occupancy(self._capacity)

    def count(self, execute: Execute, channel: str, now: float) -> bool:
        """Counts, and remembers the result.  Whether there is room.  Call it in a transaction."""
        capacity = self._capacity(channel)
        if capacity is None:
            self._remember(channel, (0, 2**63 - 1))
            return True
        [(waiting, last)] = execute(COUNT, (channel, capacity))
        if waiting >= capacity:
            # Expired rows are checked only now, because this costs a look-up for each row.
            execute(DROP_EXPIRED, (channel, now))
            [(waiting, last)] = execute(COUNT, (channel, capacity))
        room = capacity - waiting
        self._remember(channel, (last, last + room - 1))
        return bool(room > 0)

    def _remember(self, channel: str, safe: tuple[int, int]) -> None:
        if len(self._safe) >= self.LIMIT:
            self._safe.clear()
        self._safe[channel] = safe
