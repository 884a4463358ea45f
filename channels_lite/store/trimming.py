"""Upkeep of histories: deletes what a group no longer keeps.  No message waits for it.

Only the oldest rows are deleted, and with them, in one transaction, it is recorded up to which one.
Names are bytes, because other programs may write invalid text.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from channels_lite.history import Limit, Limits
from channels_lite.store import Execute, writing
from channels_lite.store.history import STAMP

__all__ = ["STEP", "Trimming", "flush", "purge", "trim"]

# In the text column, values that are not text sort after all text.
NEXT_GROUPS = """
    WITH RECURSIVE groups (name) AS (
        SELECT min(group_name) FROM channels_lite_groupmessage
        WHERE group_name > CAST(? AS TEXT) AND group_name < x''
        UNION ALL
        SELECT (SELECT min(group_name) FROM channels_lite_groupmessage
                WHERE group_name > name AND group_name < x'')
        FROM groups WHERE name IS NOT NULL
    )
    SELECT CAST(name AS BLOB) FROM groups WHERE name IS NOT NULL LIMIT ?
"""
# The newest row that is one too many.
BY_NUMBER = """
    SELECT id FROM channels_lite_groupmessage WHERE group_name = CAST(? AS TEXT)
    ORDER BY id DESC LIMIT 1 OFFSET ?
"""
OLDEST = f"""
    SELECT id, {STAMP}, coalesce(created_at + 0.0, 0) FROM channels_lite_groupmessage
    WHERE group_name = CAST(? AS TEXT) ORDER BY id LIMIT ?
"""
RECORD = """
    INSERT INTO channels_lite_grouphistory (group_name, trimmed_id, stamp, changed_at)
    VALUES (CAST(? AS TEXT), ?, ?, ?)
    ON CONFLICT (group_name) DO UPDATE SET
        trimmed_id = excluded.trimmed_id, stamp = excluded.stamp, changed_at = excluded.changed_at
"""
DELETE = "DELETE FROM channels_lite_groupmessage WHERE group_name = CAST(? AS TEXT) AND id <= ?"
# Groups without messages and members for long: new names of groups keep coming.
IS_GONE = """
    changed_at + 0.0 <= ?
    AND NOT EXISTS (SELECT 1 FROM channels_lite_groupmessage AS message
                    WHERE message.group_name = channels_lite_grouphistory.group_name)
    AND NOT EXISTS (SELECT 1 FROM channels_lite_groupmembership AS member
                    WHERE member.group_name = channels_lite_grouphistory.group_name)
"""
GONE = f"""
    SELECT CAST(max(group_name) AS BLOB), count(*), coalesce(sum(is_gone), 0) FROM
        (SELECT group_name, {IS_GONE} AS is_gone FROM channels_lite_grouphistory
         WHERE group_name > CAST(? AS TEXT) AND group_name < x'' ORDER BY group_name LIMIT ?)
"""
FORGET = f"""
    DELETE FROM channels_lite_grouphistory
    WHERE {IS_GONE} AND group_name > CAST(? AS TEXT) AND group_name <= CAST(? AS TEXT)
"""
#: Rows that a step deletes, and groups that it checks: a few milliseconds.
STEP = 500
GROUPS = 50
# Seconds after which a group without messages and members is forgotten.  Clients that come back
# later load their state anew.
FORGET_AFTER = 7 * 86400.0

#: Begins a transaction, if there is none.
Begin = Callable[[Execute], AbstractContextManager[None]]


def trim(
    execute: Execute,
    group: bytes,
    limit: Limit,
    now: float,
    *,
    begin: Begin = writing,
    most: int = STEP,
) -> tuple[int, bool]:
    """Deletes the oldest rows of ``group`` that it no longer keeps, at most ``most``.

    Returns how many, and whether there may be more.
    """
    too_many = execute(BY_NUMBER, (group, limit.messages))
    last = too_many[0][0] if too_many else 0
    gone = []
    for row, stamp, created_at in execute(OLDEST, (group, most)):
        if row > last and created_at > now - limit.seconds:
            break
        gone.append((row, stamp))
    if gone:
        with begin(execute):
            _delete(execute, group, gone[-1], now)
    return len(gone), len(gone) == most


def _delete(execute: Execute, group: bytes, through: tuple[int, int], now: float) -> None:
    """``through`` is the last row to delete, and its stamp."""
    row, stamp = through
    execute(RECORD, (group, row, abs(stamp), now))
    execute(DELETE, (group, row))


def purge(execute: Execute, group: bytes, now: float) -> int:
    """Deletes the history of ``group``, in the caller's transaction.  Returns how many rows.

    Members, and clients that come back, are told that something is gone.
    """
    found = execute(LAST, (group,))
    if not found:
        return 0
    [(count,)] = execute(COUNT, (group,))
    _delete(execute, group, found[0], now)
    return int(count)


COUNT = "SELECT count(*) FROM channels_lite_groupmessage WHERE group_name = CAST(? AS TEXT)"
LAST = f"""
    SELECT id, {STAMP} FROM channels_lite_groupmessage WHERE group_name = CAST(? AS TEXT)
    ORDER BY id DESC LIMIT 1
"""


def flush(execute: Execute) -> None:
    """Deletes all histories."""
    execute("DELETE FROM channels_lite_groupmessage", ())
    execute("DELETE FROM channels_lite_grouphistory", ())


class Trimming:
    """Goes once through all groups, in steps."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.is_done = False
        #: The last group that was checked, and the same of groups to forget.
        self._group = self._forgotten = b""
        self._has_trimmed = False

    def step(self, execute: Execute, now: float, begin: Begin) -> int:
        """Does one step.  Returns how many rows were deleted."""
        if self._has_trimmed:
            self._forget(execute, now)
            return 0
        deleted = 0
        groups = execute(NEXT_GROUPS, (self._group, GROUPS))
        for (group,) in groups:
            # A layer with another CONFIG, or an earlier one, may have written to it.
            limit = self._limits(group.decode(errors="replace"))
            if limit is not None:
                count, has_more = trim(execute, group, limit, now, begin=begin)
                deleted += count
                if has_more:
                    return deleted
            self._group = group
            if deleted >= STEP:
                return deleted
        self._has_trimmed = len(groups) < GROUPS
        return deleted

    def _forget(self, execute: Execute, now: float) -> None:
        before = now - FORGET_AFTER
        [(last, seen, gone)] = execute(GONE, (before, self._forgotten, STEP))
        if gone:
            execute(FORGET, (before, self._forgotten, last))
        self._forgotten = last
        self.is_done = seen < STEP
