"""Every SQL statement of groups with a history, once, and its use.

A message to such a group is one row of ``channels_lite_groupmessage``, whatever the number of
members and processes.  Rows are only ever deleted from the oldest on, and
``channels_lite_grouphistory`` says up to which one.  So a `Position` tells whether everything after
it is still there: its row exists with that stamp, or it is exactly where the history begins now.

A membership has the id after which its channel gets messages (``after_id``).  Its own id changes
whenever that changes, so a process that knows the last id finds all new ones.

Like `sql`, it knows nothing of Django, loops or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from channels_lite.history import Joined, Position
from channels_lite.store import Execute
from channels_lite.store.sql import READ_BYTES, READ_LIMIT, within

__all__ = [
    "After",
    "Asked",
    "Known",
    "Membership",
    "New",
    "News",
    "Remembered",
    "after",
    "append",
    "before",
    "enter",
    "here",
    "is_known",
    "is_member",
    "join",
    "last",
    "members",
    "news",
]

# The microseconds of a row, as an integer whatever another program has stored.
STAMP = "coalesce(CAST(created_at * 1000000.0 AS INTEGER), 0)"
LAST_ID = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_groupmessage'), 0)"
APPEND = """
    INSERT INTO channels_lite_groupmessage (group_name, created_at, data) VALUES (?, ?, ?)
    RETURNING (SELECT version FROM channels_lite_groupversion WHERE group_name = ?)
"""
LAST = f"""
    SELECT id, {STAMP} FROM channels_lite_groupmessage WHERE group_name = ?
    ORDER BY id DESC LIMIT 1
"""
TRIMMED = "SELECT trimmed_id, stamp FROM channels_lite_grouphistory WHERE group_name = ?"
BEGIN = """
    INSERT INTO channels_lite_grouphistory (group_name, trimmed_id, stamp, changed_at)
    VALUES (?, 0, ?, ?)
"""
IS_KNOWN = f"""
    SELECT EXISTS (SELECT 1 FROM channels_lite_groupmessage
                   WHERE id = ? AND group_name = ? AND {STAMP} IN (?, -?))
        OR EXISTS (SELECT 1 FROM channels_lite_grouphistory
                   WHERE trimmed_id = ? AND group_name = ? AND stamp = ?)
"""
# After `END`, which makes a membership that has expired a new one.
JOIN = f"""
    INSERT INTO channels_lite_groupmembership
        (group_name, channel_name, expires_at, joined_at, after_id)
    VALUES (?, ?, ?, ?, coalesce(?, {LAST_ID}))
    ON CONFLICT (group_name, channel_name) DO UPDATE SET expires_at = excluded.expires_at
    RETURNING id
"""
END = """
    DELETE FROM channels_lite_groupmembership
    WHERE group_name = ? AND channel_name = ? AND (expires_at + 0.0 <= ? OR ?)
"""
# What may have changed: the generation, and the last ids of both tables.
STATE = f"""
    SELECT coalesce((SELECT generation FROM channels_lite_boot), 0), {LAST_ID},
        coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_groupmembership'), 0)
"""
# Other programs may write names in another encoding, which would fail the statement.
# Small messages are read at once; SQLite knows the length of others without reading them.
# One statement, so that what is deleted belongs to the same moment as what is still there.
NEW_ROWS = f"""
    SELECT CAST(group_name AS BLOB), length(data),
        coalesce((SELECT trimmed_id FROM channels_lite_grouphistory AS history
                  WHERE history.group_name = message.group_name), 0),
        id, {STAMP}, coalesce(created_at + 0.0, 0),
        CASE WHEN length(data) <= ? THEN CAST(data AS BLOB) END
    FROM channels_lite_groupmessage AS message WHERE id > ? ORDER BY id LIMIT ?
"""
DATA = "SELECT CAST(data AS BLOB) FROM channels_lite_groupmessage WHERE id = ?"
NEW_MEMBERS = """
    SELECT group_name, id, channel_name, after_id, expires_at + 0.0
    FROM channels_lite_groupmembership
    WHERE id > ? AND instr(channel_name, ?) AND expires_at + 0.0 > ?
"""
MEMBERS = """
    SELECT group_name, id, channel_name, after_id, expires_at + 0.0
    FROM channels_lite_groupmembership
    WHERE group_name = ? AND instr(channel_name, ?) AND expires_at + 0.0 > ?
"""
SIZES = """
    SELECT length(data) FROM channels_lite_groupmessage
    WHERE group_name = ? AND id > ? ORDER BY id LIMIT ?
"""
IS_MEMBER = """
    SELECT EXISTS (SELECT 1 FROM channels_lite_groupmembership
                   WHERE id = ? AND group_name = ? AND expires_at + 0.0 > ?)
"""
# One statement, so that its parts belong to one moment.
AFTER = f"""
    SELECT trimmed, is_member, message.id, stamp, sent_at, data FROM
        (SELECT
            coalesce((SELECT trimmed_id FROM channels_lite_grouphistory WHERE group_name = ?), 0)
                AS trimmed,
            EXISTS (SELECT 1 FROM channels_lite_groupmembership
                    WHERE id = ? AND group_name = ? AND expires_at + 0.0 > ?) AS is_member)
    LEFT JOIN
        (SELECT id, {STAMP} AS stamp, coalesce(created_at + 0.0, 0) AS sent_at,
            CAST(data AS BLOB) AS data
         FROM channels_lite_groupmessage WHERE group_name = ? AND id > ?
         ORDER BY id LIMIT ?) AS message
    ORDER BY message.id
"""
BEFORE = """
    SELECT coalesce(min(id) - 1, 0) FROM
        (SELECT id FROM channels_lite_groupmessage WHERE group_name = ? ORDER BY id DESC LIMIT ?)
"""


# Bytes of data that are read with a row, even if no member here gets it.
SMALL = 4096


class Remembered(NamedTuple):
    """A row of a history."""

    id: int
    stamp: int
    created_at: float
    data: bytes

    @property
    def position(self) -> Position:
        """That of a client that has received it."""
        return Position(self.id, abs(self.stamp))


def append(execute: Execute, group: str, now: float, data: bytes) -> int | None:
    """Adds a message to the history of ``group``.  Returns the version of its members then."""
    return execute(APPEND, (group, now, data, group))[0][0]  # type: ignore[no-any-return]


def here(execute: Execute, group: str, now: float) -> Position:
    """The position after the last message.

    Call it in a transaction, because the history may begin here.
    """
    found = last(execute, group)
    if found is None:
        found = Position(0, int(now * 1e6))
        execute(BEGIN, (group, found.stamp, now))
    return found


def last(execute: Execute, group: str) -> Position | None:
    """The same; None: the history has not begun."""
    for statement in (LAST, TRIMMED):
        found = execute(statement, (group,))
        if found:
            return Position(found[0][0], abs(found[0][1]))
    return None


def is_known(execute: Execute, group: str, position: Position) -> bool:
    """Whether all messages of ``group`` after ``position`` are still there."""
    known = position.id, group, position.stamp
    return bool(execute(IS_KNOWN, (*known, position.stamp, *known))[0][0])


def join(
    execute: Execute,
    group: str,
    channel: str,
    *,
    now: float,
    expires_at: float,
    position: Position | None,
) -> tuple[Joined, int]:
    """Makes the channel a member from ``position`` on, or from now on.  Call it in a transaction.

    Without a position, an existing membership is only renewed.  Returns also its id.
    """
    is_complete = position is None or is_known(execute, group, position)
    begins = position if position is not None and is_complete else None
    membership = enter(
        execute,
        group,
        channel,
        now=now,
        expires_at=expires_at,
        after=None if begins is None else begins.id,
        is_anew=position is not None,
    )
    return Joined(is_complete, str(begins or here(execute, group, now))), membership


def enter(
    execute: Execute,
    group: str,
    channel: str,
    *,
    now: float,
    expires_at: float,
    after: int | None,
    is_anew: bool,
) -> int:
    """Makes the channel a member that gets messages after this id; None: after the last one.

    An existing membership is only renewed, unless it ``is_anew``.  Call it in a transaction.
    """
    execute(END, (group, channel, now, is_anew))
    [(membership,)] = execute(JOIN, (group, channel, expires_at, now, after))
    return int(membership)


def is_member(execute: Execute, group: str, membership: int, now: float) -> bool:
    """Whether this membership still exists."""
    return bool(execute(IS_MEMBER, (membership, group, now))[0][0])


class Known(NamedTuple):
    """What a process knows of the members of a group."""

    #: See `Asked.version`.
    version: Hashable
    #: When the first membership expires.
    until: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for what is new since the last time."""

    now: float
    token: str
    #: The generation, and the last ids of both tables that the process knows in it.
    generation: int
    row: int
    membership: int
    #: What it knows of a group; None: no channel of this process is a member.
    known: Callable[[str], Known | None]
    #: A value that changes with the members of a group; None: changes could not be noticed.
    version: Callable[[Execute, str], Hashable]
    #: Whether it knows any members; otherwise no row is read.
    has_members: bool
    #: Groups whose members must be read in any case.
    to_check: Collection[str] = ()

    def is_void(self, generation: int, row: int, membership: int) -> bool:
        """Whether ids have started again since."""
        is_other = self.generation not in (0, generation)
        return is_other or row < self.row or membership < self.membership


class Membership(NamedTuple):
    """One of a channel of this process."""

    group: str
    id: int
    channel: str
    #: It gets later messages; None: those after it was noticed.
    after: int | None
    expires_at: float


class New(NamedTuple):
    """A new row, with its group."""

    group: str
    #: Everything up to this id is deleted.
    trimmed: int
    row: Remembered


@dataclass(slots=True)
class News:
    """What is new, for the members in this process."""

    #: See `Asked`.
    generation: int
    row: int
    membership: int
    #: Whether ids have started again, so that there is nothing else here.
    is_new: bool = False
    #: Whether these are all rows.
    is_all: bool = True
    rows: list[New] = field(default_factory=list)
    joined: list[Membership] = field(default_factory=list)
    #: All members in this process, of groups whose members may have changed.
    members: dict[str, tuple[Hashable, list[Membership]]] = field(default_factory=dict)


def news(execute: Execute, asked: Asked) -> News:
    """Reads what is new.  Waits for no lock.

    Each statement is a separate transaction.  The generation is read after the rows, see
    `sql.look`.  So are the members, and no message comes after ``group_discard``.
    """
    rows = execute(NEW_ROWS, (SMALL, asked.row, READ_LIMIT)) if asked.has_members else []
    state = _state(execute)
    if asked.is_void(*state):
        return News(*state, is_new=True)
    found = News(*state)
    if asked.has_members:
        found.row = asked.row
        _choose(execute, asked, found, rows)
    _read_members(execute, asked, found)
    return found


def members(execute: Execute, asked: Asked, rows: list[New], last: int, *, is_all: bool) -> News:
    """The same with rows that were read elsewhere, up to the id ``last``."""
    generation, _, membership = _state(execute)
    if asked.is_void(generation, last, membership):
        return News(generation, last, membership, is_new=True)
    found = News(generation, last, membership, is_all=is_all, rows=rows)
    _read_members(execute, asked, found)
    return found


def _state(execute: Execute) -> tuple[int, int, int]:
    [(generation, row, membership)] = execute(STATE, ())
    return generation, row, membership


def _choose(execute: Execute, asked: Asked, found: News, rows: list[Any]) -> None:
    """Keeps the rows of groups with members here.

    If one is deleted meanwhile, the next look begins there, and learns up to where they are.
    """
    size = 0
    found.is_all = len(rows) < READ_LIMIT
    for name, length, trimmed, row, stamp, created_at, data in rows:
        group = name.decode(errors="replace")
        if asked.known(group) is not None:
            size += length
            if size > READ_BYTES and found.rows:
                found.is_all = False
                return
            if data is None:
                large = execute(DATA, (row,))
                if not large:
                    found.is_all = False
                    return
                data = large[0][0]  # noqa: PLW2901
            found.rows.append(New(group, trimmed, Remembered(row, stamp, created_at, data)))
        found.row = row


def _read_members(execute: Execute, asked: Asked, found: News) -> None:
    if found.membership > asked.membership:
        new = execute(NEW_MEMBERS, (asked.membership, f".{asked.token}!", asked.now))
        found.joined = [Membership(*row) for row in new]
    for group in {each.group for each in found.rows} | set(asked.to_check):
        known = asked.known(group)
        # First the version, so that a change in between is noticed the next time.
        version = asked.version(execute, group)
        if (
            known is None
            or version is None
            or version != known.version
            or asked.now >= known.until
            or group in asked.to_check
        ):
            members = execute(MEMBERS, (group, f".{asked.token}!", asked.now))
            found.members[group] = version, [Membership(*row) for row in members]


class After(NamedTuple):
    """Messages after a position."""

    rows: list[Remembered]
    #: Whether they are all up to the id ``last``.
    is_all: bool
    last: int
    #: Everything up to this id is deleted.
    trimmed: int
    #: Whether the membership that was asked about still exists.
    is_member: bool


def after(
    execute: Execute, group: str, row: int, most: int, *, membership: int = 0, now: float = 0.0
) -> After:
    """The first messages of ``group`` after this id, at most ``most``."""
    _, last, _ = _state(execute)  # before the sizes, so that they include all rows up to it
    sizes = execute(SIZES, (group, row, most))
    count = within(READ_BYTES, sizes)
    found = execute(AFTER, (group, membership, group, now, group, row, count))
    rows = [Remembered(*each[2:]) for each in found if each[2] is not None]
    is_all = len(sizes) <= count and len(sizes) < most
    last = max(last, rows[-1].id) if rows else last
    return After(rows, is_all, last, found[0][0], bool(found[0][1]))


def before(execute: Execute, group: str, most: int) -> int:
    """An id after which there are the last ``most`` messages of ``group``."""
    return int(execute(BEFORE, (group, most))[0][0])
