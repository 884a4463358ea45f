"""What keeps the tables small: reboots, deaths and expiry.  Off every message's way."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from channels_lite.names import token_of
from channels_lite.store import Execute, sql, writing

__all__ = ["INCREMENTAL", "KEPT", "Sweep", "begin_boot", "boot", "flush", "leave_all"]

BOOT = "SELECT began_at, boot_id, generation FROM channels_lite_boot"
# A later generation has a higher number, also where the row of the former one is gone.
SET_BOOT = """
    INSERT OR REPLACE INTO channels_lite_boot
        (id, boot_id, began_at, flushed_id, flushed_at, generation)
    VALUES (1, ?, ?, 0, 0,
        max(?, 1 + coalesce((SELECT max(generation) FROM channels_lite_boot), 0)))
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
# Names as bytes, for the text of whoever wrote by SQL may be none; in a column of text, where what
# is none sorts behind it.
GROUPS = """
    SELECT CAST(max(group_name) AS BLOB), count(*), coalesce(sum(is_empty), 0) FROM
        (SELECT group_name, NOT EXISTS
            (SELECT 1 FROM channels_lite_groupmembership AS member
             WHERE member.group_name = version.group_name) AS is_empty
         FROM channels_lite_groupversion AS version
         WHERE group_name > CAST(? AS TEXT) AND group_name < x'' ORDER BY group_name LIMIT ?)
"""
# Who has joined since keeps its version.
FORGET_GROUPS = """
    DELETE FROM channels_lite_groupversion
    WHERE group_name > CAST(? AS TEXT) AND group_name <= CAST(? AS TEXT) AND NOT EXISTS
        (SELECT 1 FROM channels_lite_groupmembership AS member
         WHERE member.group_name = channels_lite_groupversion.group_name)
"""
# Seconds by which two processes may disagree about when the machine was started, for the wall clock
# is being corrected.
DRIFT = 60.0
#: Rows that a step of a sweep reads, and pages it gives back: a millisecond.
STEP = 500
PAGES = 50
#: Of ``PRAGMA auto_vacuum``: free pages can be given back one by one.
INCREMENTAL = 2
#: Free pages that are left for the messages to come: 4 MB.
KEPT = 1000


class Boot(NamedTuple):
    """The boot of the machine that the table is of."""

    generation: int
    began_at: float


def boot(execute: Execute, boot_id: str, began_at: float, *, is_alone: bool) -> Boot | None:
    """This boot, if anybody has used the database since it began.

    Containers have boot ids of their own, and some processes see none.  So another id is believed
    while another process is alive, and one that is missing while the time is the same.
    """
    known = execute(BOOT, ())
    if not known:
        return None
    then, name, generation = known[0]
    if not generation:  # of a former version
        return None
    if not is_alone or (name == boot_id and name):
        return Boot(generation, then)
    is_nameless = not (name and boot_id)
    return Boot(generation, then) if is_nameless and abs(then - began_at) < DRIFT else None


def begin_boot(execute: Execute, boot_id: str, began_at: float, *, is_alone: bool) -> Boot:
    """The same for a process that may be the first: enters the boot, and purges an earlier one's.

    No message is meant to survive a reboot, and no process has.
    """
    sql.renew(execute, 0)  # of a former version
    known = boot(execute, boot_id, began_at, is_alone=is_alone)
    if known is None:
        if execute(BOOT, ()):
            execute("DELETE FROM channels_lite_event", ())
            execute("DELETE FROM channels_lite_groupmembership WHERE instr(channel_name, '!')", ())
        execute(SET_BOOT, (boot_id, began_at, sql.generation_number()))
        [(began_at, _, generation)] = execute(BOOT, ())
        known = Boot(generation, began_at)
    return known


def flush(execute: Execute, ticks: float, boot_id: str, began_at: float) -> None:
    """Deletes all messages and groups, and voids what processes have in memory."""
    # Somebody may have emptied that table, too, and by another clock than this process's.
    boot = begin_boot(execute, boot_id, began_at, is_alone=False)
    execute("DELETE FROM channels_lite_event", ())
    execute("DELETE FROM channels_lite_groupmembership", ())
    execute(SET_FLUSHED, (boot.began_at + ticks,))


class Sweep:
    """Goes once through both tables, in steps, and deletes what has expired or is of ``stale``.

    Then it forgets the versions of groups without members, for names of groups are new for ever;
    and gives free pages back to the file system, but for ``kept``; None: no page at all.

    No index by expiry: every message would pay for it, and a sweep reads each row once.
    """

    def __init__(self, stale: Collection[str], kept: int | None) -> None:
        #: Tokens of processes.
        self.stale = stale
        #: Rows it has looked at.
        self.seen = 0
        #: Whether it has reached the end, and whether it gave pages back.
        self.is_done = self.gave_back = False
        # Memberships first, for as long as there are any of stale processes they get rows.
        self._tables = ["channels_lite_groupmembership", "channels_lite_event"]
        self._after = 0
        #: The last group that was looked at; None: all were, or none has a version.
        self._group: bytes | None = b""
        self._kept = kept

    def step(self, execute: Execute, now: float) -> int:
        """Returns how many rows were deleted."""
        if self._tables:
            return self._delete(execute, self._tables[0], now)
        if self._group is not None:
            self._group = _forget_groups(execute, self._group)
            return 0
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
        return b"!" in name and token_of(name.decode(errors="replace")) in self.stale


def _forget_groups(execute: Execute, after: bytes) -> bytes | None:
    """Forgets the versions of those without members.  Returns the last it looked at.

    None: there are no more, or nobody keeps versions here.
    """
    if not after and not sql.are_versions_kept(execute):
        return None
    [(last, seen, empty)] = execute(GROUPS, (after, STEP))
    if empty:
        execute(FORGET_GROUPS, (after, last))
    return bytes(last) if seen == STEP else None


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
