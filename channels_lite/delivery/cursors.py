"""What this process knows about ids in the table: which rows it has read, and put.

Rows of process-local channels are read without a claim, because no other process may read them.  So
this process remembers up to which id it has read, until it acknowledges the rows, which deletes
them.

Ids are valid only within one generation of the table (`store.sql.Table`).  When it ends, with
``manage.py flush`` or a restored file, the cursors end with it.

Thread: any.  One lock guards it all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from channels_lite.store.sql import Acknowledgement, FlushMark, Look, Looked, Row

__all__ = ["Cursors"]

# The number of names that a look reads one by one; with more, it asks which names have rows.
NAMES = 16


class Cursors:
    """The cursors of this process, and the rows to acknowledge."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._lock = threading.Lock()
        #: Non-local names of this process's channels.
        self._names: set[str] = set()
        #: The id up to which rows of each name were read, and are not deleted yet.
        self._cursors: dict[str, int] = {}
        #: The id up to which rows of each name were read, whether deleted or not.
        self._seen: dict[str, int] = {}
        #: The highest of all these ids.
        self._last = 0
        #: The highest id that this process has read or put, and its generation.  It is one object,
        #: so it can be read without the lock.
        self.reached = (0, 0)
        #: The last id of the table after the last look.
        self._committed = 0
        #: The generation of the cursors.
        self.generation = 0
        #: What was read, and is to be deleted.
        self._unacknowledged = Acknowledgement(0, {})
        #: The last flush that this process knows of.
        self.flushed = FlushMark(0, 0.0)

    def own(self, name: str) -> bool:
        """Registers a name of this process.  True if it is new."""
        with self._lock:  # `keep` may be about to forget it
            is_new = name not in self._names
            self._names.add(name)
        return is_new

    def seen(self, name: str) -> int:
        """The id up to which this process has read rows of ``name``, or knows there are none."""
        return self._seen.get(name, 0)

    def ask(self, now: float, held: Collection[str] = (), *, deletes: bool) -> Look:
        """The next look: what to read, and whether to delete what it reads.

        ``held`` are names for which frames are held.  They may have been forgotten.
        """
        with self._lock:
            self._names.update(held)
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
        """Forgets what was read in an earlier generation."""
        with self._lock:
            self.generation = generation
            self._cursors.clear()
            self._seen.clear()
            self._unacknowledged = Acknowledgement(generation, {})
            self._last = self._committed = 0
            self.reached = (0, generation)
            self.flushed = FlushMark(0, 0.0)  # its ids and times belong to the other generation

    def fresh(self, asked: Look, looked: Looked) -> dict[str, list[Row]]:
        """The found rows that were not read before.  They count as read now.

        Looks may overlap, and complete in any order.
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
                    self._cursors[name] = self._unacknowledged.read[name] = last
                    self._unacknowledged.rows += len(found)
                    self._unacknowledged.size += sum(len(row.data) for row in found)
                if new:
                    rows[name] = new
        return rows

    def has_seen(self, name: str, row: int) -> None:
        """Remembers that no row of ``name`` up to this id can still arrive."""
        with self._lock:
            self._seen[name] = max(self._seen.get(name, 0), row)

    def has_put(self, generation: int, row: int) -> None:
        """Remembers a row that this process has committed."""
        with self._lock:
            if generation == self.generation:
                self._reach(row)

    def _reach(self, row: int) -> None:
        if row > self.reached[0]:
            self.reached = (row, self.generation)

    @property
    def unacknowledged(self) -> int:
        """The number of rows to acknowledge."""
        return self._unacknowledged.rows

    def to_acknowledge(self) -> Acknowledgement:
        """The rows to acknowledge.  `restore` them if that fails."""
        with self._lock:
            through = self._unacknowledged
            self._unacknowledged = Acknowledgement(self.generation, {})
        return through

    def acknowledged(self, through: Acknowledgement) -> None:
        """The rows are deleted, and no current look can have read them before."""
        with self._lock:
            if through.generation == self.generation:
                for name, cursor in through.read.items():
                    if self._cursors.get(name) == cursor:
                        del self._cursors[name]

    def restore(self, through: Acknowledgement) -> None:
        """Puts back rows that could not be acknowledged."""
        with self._lock:
            if through.generation == self.generation:
                self._unacknowledged.read = through.read | self._unacknowledged.read
                self._unacknowledged.size += through.size

    def flush(self, flushed: FlushMark) -> bool:
        """Remembers a flush.  True if this process did not know of it."""
        with self._lock:
            if flushed.at <= self.flushed.at:
                return False
            self.flushed = flushed
            self._cursors.clear()
            self._unacknowledged = Acknowledgement(self.generation, {})
            return True

    def keep(self, in_use: Callable[[], set[str]]) -> None:
        """Forgets all names except those in use and those with rows to delete.

        A row that arrives for a forgotten name waits in the table until a coroutine receives there
        again.  ``in_use`` is called under the lock, because a coroutine that begins to receive
        enters its mailbox first and calls `own` then.
        """
        with self._lock:
            names = in_use() | self._cursors.keys()
            self._names &= names
            self._seen = {name: row for name, row in self._seen.items() if name in names}
