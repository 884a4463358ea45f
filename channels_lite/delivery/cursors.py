"""What this process knows of the table's ids: up to where it has read, and put, rows.

Rows of process-local channels are read without a claim, for no other process may read them; so this
process remembers up to where it has, until it has told the table, which deletes them.

Ids mean something within one generation of the table only (`store.sql.Table`): when it ends, by
``manage.py flush`` or a file that was restored, the cursors end with it.

Thread: any.  One lock guards it all.
"""

from __future__ import annotations

import threading

from channels_lite.store.sql import Acknowledgement, FlushMark, Look, Looked, Row

__all__ = ["Cursors"]

# Non-local names that a look asks for one by one; with more it asks which names have rows at all.
NAMES = 16


class Cursors:
    """The cursors of this process, and what it is through with."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._lock = threading.Lock()
        #: Non-local names of this process's channels.
        self._names: set[str] = set()
        #: The id up to which rows of each name were read and are not deleted yet.
        self._cursors: dict[str, int] = {}
        #: The same, whether deleted or not.
        self._seen: dict[str, int] = {}
        #: The highest of them all.
        self._last = 0
        #: The highest id that this process has read or put, and the generation that it is of: one
        #: object, to be read without the lock.
        self.reached = (0, 0)
        #: The last id of the table when a look last came back.
        self._committed = 0
        #: Names with rows to delete, by the id of the last one; and how many rows that are.
        self._read: dict[str, int] = {}
        self.unacknowledged = 0
        #: The generation that the cursors are of.
        self.generation = 0
        #: The last flush that this process knows of.
        self.flushed = FlushMark(0, 0.0)

    def own(self, name: str) -> bool:
        """Takes a name as this process's.  True if it was not before."""
        if name in self._names:
            return False
        with self._lock:
            self._names.add(name)
        return True

    def seen(self, name: str) -> int:
        """The id of the last row of ``name`` that this process has read, or looked for in vain."""
        return self._seen.get(name, 0)

    def ask(self, now: float, *, deletes: bool) -> Look:
        """What the next look is to read, and whether it deletes what it reads."""
        with self._lock:
            names = None if len(self._names) > NAMES else tuple(self._names)
            return Look(
                now,
                self._token,
                names,
                dict(self._cursors),
                self.generation,
                self._last,
                self._committed,
                deletes=deletes,
            )

    def begin(self, generation: int) -> None:
        """Forgets what was read of a former generation."""
        with self._lock:
            self.generation = generation
            self._cursors.clear()
            self._seen.clear()
            self._read.clear()
            self._last = self._committed = self.unacknowledged = 0
            self.reached = (0, generation)
            self.flushed = FlushMark(0, 0.0)  # its ids and times are none of this one's

    def fresh(self, asked: Look, looked: Looked) -> dict[str, list[Row]]:
        """Those of the rows found that were not read before; they count as read now.

        Looks may overlap, and come back in any order.
        """
        rows: dict[str, list[Row]] = {}
        with self._lock:
            if asked.generation != self.generation:
                return rows
            self._committed = max(self._committed, looked.table.last_id)
            for name, found in looked.rows.items():
                cursor = self._cursors.get(name, 0)
                new = [row for row in found if row.id > cursor and row.id >= self.flushed.id]
                last = found[-1].id
                self._seen[name] = max(self._seen.get(name, 0), last)
                self._last = max(self._last, last)
                self._reach(last)
                if not asked.deletes and last > cursor:
                    self._cursors[name] = self._read[name] = last
                    self.unacknowledged += len(found)
                if new:
                    rows[name] = new
        return rows

    def has_seen(self, name: str, row: int) -> None:
        """Takes note that no row of ``name`` up to this id is still to come."""
        with self._lock:
            self._seen[name] = max(self._seen.get(name, 0), row)

    def has_put(self, generation: int, row: int) -> None:
        """Takes note of a row that this process has committed."""
        with self._lock:
            if generation == self.generation:
                self._reach(row)

    def _reach(self, row: int) -> None:
        if row > self.reached[0]:
            self.reached = (row, self.generation)

    def to_acknowledge(self) -> Acknowledgement:
        """What this process is through with, to tell the table; `restore` it if that fails."""
        with self._lock:
            through = Acknowledgement(self.generation, self._read)
            self._read, self.unacknowledged = {}, 0
        return through

    def acknowledged(self, through: Acknowledgement) -> None:
        """What was told is done, and no look is under way that may have read it before."""
        with self._lock:
            if through.generation == self.generation:
                for name, cursor in through.read.items():
                    if self._cursors.get(name) == cursor:
                        del self._cursors[name]

    def restore(self, through: Acknowledgement) -> None:
        """Puts back what could not be told."""
        with self._lock:
            if through.generation == self.generation:
                self._read = through.read | self._read

    def flush(self, flushed: FlushMark) -> bool:
        """Takes note of a flush.  True if this process did not know of it."""
        with self._lock:
            if flushed.at <= self.flushed.at:
                return False
            self.flushed = flushed
            self._cursors.clear()
            self._read.clear()
            return True

    def keep(self, names: set[str]) -> None:
        """Forgets all other names, but for those with rows to delete.

        A row that comes for one of them waits in the table until somebody receives there again.
        """
        with self._lock:
            names = names | self._cursors.keys()
            self._names &= names
            self._seen = {name: row for name, row in self._seen.items() if name in names}
