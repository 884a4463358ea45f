"""What keeps the tables small: reboots, deaths and expiry.  Off every message's way."""

from __future__ import annotations

from collections.abc import Collection

from channels_lite.names import token_of
from channels_lite.store import Execute, writing

__all__ = ["INCREMENTAL", "KEPT", "Sweep", "begin_boot", "boot", "flush", "leave_all"]

BOOT = "SELECT began_at, boot_id FROM channels_lite_boot"
SET_BOOT = """
    INSERT OR REPLACE INTO channels_lite_boot (id, boot_id, began_at, flushed_id, flushed_at)
    VALUES (1, ?, ?, 0, 0)
"""
SET_FLUSHED = """
    UPDATE channels_lite_boot SET flushed_at = ?, flushed_id = 1 +
        coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event'), 0)
"""
# What is no number has expired.
CHUNK = """
    SELECT id, coalesce(expires_at + 0.0 > ?, 0), CAST(channel_name AS BLOB) FROM {table}
    WHERE id > ? ORDER BY id LIMIT ?
"""
LEAVE_ALL = "DELETE FROM channels_lite_groupmembership WHERE instr(channel_name, ?)"
DELETE_ROWS = "DELETE FROM {table} WHERE id IN ({rows})"
#: Rows that a step of a sweep reads, and pages it gives back: a millisecond.
STEP = 500
PAGES = 50
#: Of ``PRAGMA auto_vacuum``: free pages can be given back one by one.
INCREMENTAL = 2
#: Free pages that are left for the messages to come: 4 MB.
KEPT = 1000


def boot(execute: Execute, boot_id: str) -> float | None:
    """When this boot of the machine began, if anybody has used the database since."""
    known = execute(BOOT, ())
    return known[0][0] if known and known[0][1] == boot_id else None


def begin_boot(execute: Execute, boot_id: str, began_at: float) -> float:
    """The same for who may be the first: enters it, and purges what an earlier boot has left.

    No message is meant to survive a reboot, and no process has.
    """
    known = execute(BOOT, ())
    if known and known[0][1] == boot_id:
        return float(known[0][0])
    if known:
        execute("DELETE FROM channels_lite_event", ())
        execute("DELETE FROM channels_lite_groupmembership WHERE instr(channel_name, '!')", ())
    execute(SET_BOOT, (boot_id, began_at))
    return began_at


def flush(execute: Execute, now: float, boot_id: str, began_at: float) -> None:
    """Deletes all messages and groups, and voids what processes have in memory."""
    begin_boot(execute, boot_id, began_at)  # somebody may have emptied that table, too
    execute("DELETE FROM channels_lite_event", ())
    execute("DELETE FROM channels_lite_groupmembership", ())
    execute(SET_FLUSHED, (now,))


class Sweep:
    """Goes once through both tables, in steps, and deletes what has expired or is of ``dead``.

    Then it gives free pages back to the file system, but for ``kept``; None: no page at all.

    No index by expiry: every message would pay for it, and a sweep reads each row once.
    """

    def __init__(self, dead: Collection[str], kept: int | None) -> None:
        #: Tokens of processes.
        self.dead = dead
        #: Rows it has looked at.
        self.seen = 0
        #: Whether it has reached the end, and whether it gave pages back.
        self.is_done = self.gave_back = False
        # Memberships first, for as long as there are any of the dead they get rows.
        self._tables = ["channels_lite_groupmembership", "channels_lite_event"]
        self._after = 0
        self._kept = kept

    def step(self, execute: Execute, now: float) -> int:
        """Returns how many rows were deleted."""
        if self._tables:
            return self._delete(execute, self._tables[0], now)
        given = 0 if self._kept is None else _give_pages_back(execute, self._kept)
        self.gave_back = self.gave_back or given > 0
        self.is_done = given < PAGES
        return 0

    def _delete(self, execute: Execute, table: str, now: float) -> int:
        rows = execute(CHUNK.format(table=table), (now, self._after, STEP))
        self.seen += len(rows)
        gone = [row for row, is_live, name in rows if not is_live or self._is_dead(name)]
        if gone:
            execute(DELETE_ROWS.format(table=table, rows=",".join(map(str, gone))), ())
        if len(rows) == STEP:
            self._after = rows[-1][0]
        else:
            self._after = 0
            self._tables.pop(0)
        return len(gone)

    def _is_dead(self, name: bytes) -> bool:
        return b"!" in name and token_of(name.decode(errors="replace")) in self.dead


def _give_pages_back(execute: Execute, kept: int) -> int:
    """Returns how many; less than ``PAGES`` when there are no more."""
    free = execute("PRAGMA freelist_count", ())[0][0] - kept
    if free <= 0 or execute("PRAGMA auto_vacuum", ()) != [(INCREMENTAL,)]:
        return 0
    given = min(PAGES, free)
    with writing(execute):
        for _ in range(given):
            # One at a time: Python's sqlite3 takes one step of a statement without columns.
            execute("PRAGMA incremental_vacuum(1)", ())
    return int(given)


def leave_all(execute: Execute, token: str) -> None:
    """Ends the memberships of a process."""
    execute(LEAVE_ALL, (f".{token}!",))
