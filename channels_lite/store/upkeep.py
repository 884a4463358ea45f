"""Upkeep of the tables: reboots, dead processes and expired rows.  No message waits for it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import NamedTuple

from channels_lite.history import Limits
from channels_lite.names import token_of
from channels_lite.store import Execute, sql, trimming, writing

__all__ = [
    "INCREMENTAL",
    "KEPT",
    "Sweep",
    "begin_boot",
    "boot",
    "flush",
    "leave_all",
    "memberships_of",
]

BOOT = "SELECT began_at, boot_id, generation FROM channels_lite_boot"
# A later generation has a higher number, even if the row of the previous one is gone.
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
# A value that is not a number counts as expired.
CHUNK = """
    SELECT id, coalesce(expires_at + 0.0 > ?, 0), CAST(channel_name AS BLOB) FROM {table}
    WHERE id > ? ORDER BY id LIMIT ?
"""
MEMBERSHIPS = """
    SELECT group_name, channel_name, expires_at + 0.0 FROM channels_lite_groupmembership
    WHERE instr(channel_name, ?) AND expires_at + 0.0 > ?
"""
LEAVE_ALL = "DELETE FROM channels_lite_groupmembership WHERE instr(channel_name, ?)"
DELETE_ROWS = "DELETE FROM {table} WHERE id IN ({rows})"
# Names as bytes, because other programs may write invalid text.  In the text column, values that
# are not text sort after all text.
GROUPS = """
    SELECT CAST(max(group_name) AS BLOB), count(*), coalesce(sum(is_empty), 0) FROM
        (SELECT group_name, NOT EXISTS
            (SELECT 1 FROM channels_lite_groupmembership AS member
             WHERE member.group_name = version.group_name) AS is_empty
         FROM channels_lite_groupversion AS version
         WHERE group_name > CAST(? AS TEXT) AND group_name < x'' ORDER BY group_name LIMIT ?)
"""
# A group that has got members since keeps its version.
FORGET_GROUPS = """
    DELETE FROM channels_lite_groupversion
    WHERE group_name > CAST(? AS TEXT) AND group_name <= CAST(? AS TEXT) AND NOT EXISTS
        (SELECT 1 FROM channels_lite_groupmembership AS member
         WHERE member.group_name = channels_lite_groupversion.group_name)
"""
# Seconds by which two processes may disagree about the boot time, because the system clock is
# corrected meanwhile.
DRIFT = 60.0
#: Rows that a step of a sweep reads, and pages that it returns: a millisecond.
STEP = 500
#: A step goes on to the next table if it has read fewer.
FEW = 50
PAGES = 50
#: The value of ``PRAGMA auto_vacuum`` that allows to return free pages one by one.
INCREMENTAL = 2
#: Free pages that stay for future messages: 4 MB.
KEPT = 1000


class Boot(NamedTuple):
    """The boot of the machine that the table belongs to."""

    generation: int
    began_at: float


def boot(execute: Execute, boot_id: str, began_at: float, *, is_alone: bool) -> Boot | None:
    """This boot, if a process has used the database since it began.

    Containers have their own boot ids, and some processes see no id.  So a different id counts as
    the same boot while another process is alive, and a missing id while the boot time is the same.
    """
    known = execute(BOOT, ())
    if not known:
        return None
    then, name, generation = known[0]
    if not generation:  # written by a previous version
        return None
    if not is_alone or (name == boot_id and name):
        return Boot(generation, then)
    is_nameless = not (name and boot_id)
    return Boot(generation, then) if is_nameless and abs(then - began_at) < DRIFT else None


def begin_boot(execute: Execute, boot_id: str, began_at: float, *, is_alone: bool) -> Boot:
    """Like `boot`, for a process that may be the first: records the boot, and purges older rows.

    Messages do not survive a reboot, and neither do processes.
    """
    sql.renew(execute, 0)  # a row from an earlier version has no number
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
    """Deletes all messages, groups and histories, and voids messages in the memory of processes."""
    # That table may also have been emptied, and filled by a process with another clock.
    boot = begin_boot(execute, boot_id, began_at, is_alone=False)
    execute("DELETE FROM channels_lite_event", ())
    execute("DELETE FROM channels_lite_groupmembership", ())
    trimming.flush(execute)
    execute(SET_FLUSHED, (boot.began_at + ticks,))


class Sweep:
    """Goes once through both tables, in steps.  Deletes expired rows, and those of ``stale``.

    Then it deletes the versions of groups without members, because new names of groups keep coming,
    and with ``limits`` what groups no longer keep in their histories.
    Then it returns free pages to the file system, except ``kept``; None: it returns no page.

    There is no index by expiry: every message would pay for it, and a sweep reads each row once.
    """

    def __init__(
        self,
        stale: Collection[str],
        kept: int | None,
        limits: Limits | None = None,
        *,
        is_in_transaction: bool = False,
    ) -> None:
        #: Tokens of processes.
        self.stale = stale
        #: The number of rows that it has checked.
        self.seen = 0
        #: Whether it has reached the end, and whether it returned pages.
        self.is_done = self.gave_back = False
        # Memberships first, because stale processes get rows as long as they have any.
        self._tables = ["channels_lite_groupmembership", "channels_lite_event"]
        self._after = 0
        #: The last group that was checked; None: all were, or none has a version.
        self._group: bytes | None = b""
        self._trimming = None if limits is None else trimming.Trimming(limits)
        self._trimmed = 0
        self._is_in_transaction = is_in_transaction
        self._kept = kept
        #: Rows that the current step has read.
        self._read = 0

    def step(self, execute: Execute, now: float) -> int:
        """Does one step: the next parts, up to one that reads many rows or deletes any.

        Returns how many rows were deleted.
        """
        self._read = 0
        deleted = self._part(execute, now)
        while not (deleted or self.is_done or self._read >= FEW):
            deleted = self._part(execute, now)
        return deleted

    def _part(self, execute: Execute, now: float) -> int:
        if self._tables:
            return self._delete(execute, self._tables[0], now)
        if self._group is not None:
            self._group, read = _forget_groups(execute, self._group)
            self._read += read
            return 0
        if self._trimming is not None and not self._trimming.is_done:
            begin = _no_transaction if self._is_in_transaction else writing
            deleted = self._trimming.step(execute, now, begin)
            self._trimmed += deleted
            self._read += STEP
            return deleted
        given = 0 if self._kept is None else _give_pages_back(execute, self._kept)
        self.gave_back = self.gave_back or given > 0
        self.is_done = given < PAGES
        self._read += STEP
        return 0

    def take_trimmed(self) -> int:
        """The number of rows deleted from histories since the last call."""
        trimmed, self._trimmed = self._trimmed, 0
        return trimmed

    def _delete(self, execute: Execute, table: str, now: float) -> int:
        rows = execute(CHUNK.format(table=table), (now, self._after, STEP))
        self.seen += len(rows)
        self._read += len(rows)
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


def _no_transaction(_: Execute) -> nullcontext[None]:
    return nullcontext()


def _forget_groups(execute: Execute, after: bytes) -> tuple[bytes | None, int]:
    """Deletes the versions of groups without members.

    Returns the last group, and the number of groups.  None: there are no more, or no versions are
    kept.
    """
    if not after and not sql.are_versions_kept(execute):
        return None, 0
    [(last, seen, empty)] = execute(GROUPS, (after, STEP))
    if empty:
        execute(FORGET_GROUPS, (after, last))
    return bytes(last) if seen == STEP else None, STEP if empty else seen


def _give_pages_back(execute: Execute, kept: int) -> int:
    """Returns how many; fewer than ``PAGES`` if there are no more."""
    free = execute("PRAGMA freelist_count", ())[0][0] - kept
    if free <= 0 or execute("PRAGMA auto_vacuum", ()) != [(INCREMENTAL,)]:
        return 0
    given = min(PAGES, free)
    with writing(execute):
        for _ in range(given):
            # One at a time: Python's sqlite3 makes only one step of a statement without columns.
            execute("PRAGMA incremental_vacuum(1)", ())
    return int(given)


def memberships_of(execute: Execute, token: str, now: float) -> list[tuple[str, str, float]]:
    """The memberships of a process: group, channel, and expiry."""
    return execute(MEMBERSHIPS, (f".{token}!", now))


def leave_all(execute: Execute, token: str) -> None:
    """Ends the memberships of a process."""
    execute(LEAVE_ALL, (f".{token}!",))
