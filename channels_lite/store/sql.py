"""Every statement, once, and what is done with it.  Knows tables, not Django, loops or threads.

Each function takes an ``Execute`` first and is run by a store.  Times are seconds since 1970 UTC.

A row's ``channel_name`` is the non-local part of a channel's name.  What is behind the "!" of a
process-local channel is in ``recipients``: one local part, or those of all members a group has in
that process, so that a group message is one row per process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from channels_lite.store import Execute, writing
from channels_lite.store.rooms import Rooms

__all__ = [
    "Batch",
    "Claimed",
    "FlushMark",
    "Look",
    "Looked",
    "Member",
    "Post",
    "Release",
    "Row",
    "group_members",
    "join",
    "leave",
    "look",
    "post",
    "post_all",
    "release",
]

# While ids stay below what `Rooms` knows to be safe, one statement is all a message takes.
INSERT_IF_ROOM = """
    INSERT INTO channels_lite_event (created_at, expires_at, channel_name, recipients, data)
    SELECT ?, ?, ?, ?, ?
    WHERE (SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event') BETWEEN ? AND ?
    RETURNING id
"""
INSERT = """
    INSERT INTO channels_lite_event (created_at, expires_at, channel_name, recipients, data)
    VALUES (?, ?, ?, ?, ?)
    RETURNING id
"""
# Anybody may have written a row, of any types: text in another encoding would fail the statement.
READ = """
    SELECT id, CAST(recipients AS BLOB), CAST(data AS BLOB), coalesce(expires_at + 0.0, 0)
    FROM channels_lite_event
    WHERE channel_name = ? AND id > ? ORDER BY id LIMIT ?
"""
IS_WAITING = """
    SELECT EXISTS (SELECT 1 FROM channels_lite_event WHERE channel_name = ? AND expires_at > ?)
"""
# The inner SELECT chooses, the DELETE claims: of two processes only one gets the row.
CLAIM = """
    DELETE FROM channels_lite_event WHERE id IN
        (SELECT id FROM channels_lite_event WHERE channel_name = ? AND expires_at > ?
         ORDER BY id LIMIT ?)
    RETURNING id, CAST(data AS BLOB), coalesce(expires_at + 0.0, 0), coalesce(created_at + 0.0, 0)
"""
LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event'"
FLUSH_MARK = "SELECT flushed_id, flushed_at FROM channels_lite_boot"
DELETE_READ = "DELETE FROM channels_lite_event WHERE channel_name = ? AND id <= ?"
# By id and name, for ids may have begun anew, and be another's.
PARK = """
    UPDATE channels_lite_event SET channel_name = channel_name || recipients
    WHERE id = ? AND channel_name = ?
"""
DELETE_ROW = "DELETE FROM channels_lite_event WHERE id = ? AND channel_name = ?"
# Unless there was a flush since; after Django's ids begin again, and it may be another's.
GIVE_BACK = """
    INSERT INTO channels_lite_event (id, created_at, expires_at, channel_name, recipients, data)
    SELECT ?, ?, ?, ?, '', ?
    WHERE ? >= coalesce((SELECT max(flushed_id) FROM channels_lite_boot), 0)
    ON CONFLICT (id) DO NOTHING
"""
JOIN = """
    INSERT INTO channels_lite_groupmembership (group_name, channel_name, expires_at, joined_at)
    VALUES (?, ?, ?, ?)
    ON CONFLICT (group_name, channel_name) DO UPDATE SET expires_at = excluded.expires_at
"""
LEAVE = "DELETE FROM channels_lite_groupmembership WHERE group_name = ? AND channel_name = ?"
MEMBERS = """
    SELECT substr(channel_name, 1, bang), group_concat(substr(channel_name, bang + 1)),
           min(expires_at) FROM
        (SELECT channel_name, expires_at + 0.0 AS expires_at,
                coalesce(nullif(instr(channel_name, '!'), 0), 100) AS bang
         FROM channels_lite_groupmembership WHERE group_name = ? AND expires_at + 0.0 > ?)
    GROUP BY 1
"""
#: Rows of one channel that a look reads at most; the rest is for the next one.
READ_LIMIT = 1000


@dataclass(slots=True)
class Post:
    """A message on its way to the channels of one process, or to a plain channel."""

    #: Its non-local name, and the local parts behind it, by commas.
    name: str
    recipients: str
    #: Whose capacity it takes: the full name for a message to one channel, else the non-local.
    channel: str
    data: bytes
    created_at: float
    expires_at: float
    #: The process has it; it needs no row.
    is_handed_over: bool = False


@dataclass(slots=True)
class Batch:
    """What the writes that are committed together have in common."""

    now: float
    rooms: Rooms
    #: Whether there is no transaction, for there is one write only.
    is_alone: bool = False
    #: Non-local names that got a row: whose readers are to be woken after the commit.  With its id.
    posted: dict[str, int] = field(default_factory=dict)

    def transaction(self, execute: Execute) -> AbstractContextManager[None]:
        """For a write of several statements, which makes its own if it is alone."""
        return writing(execute) if self.is_alone else nullcontext()


def post(execute: Execute, batch: Batch, message: Post) -> bool:
    """Stores a row, if there is room.  False: the channel is full."""
    row = (batch.now, message.expires_at, message.name, message.recipients, message.data)
    is_in = execute(INSERT_IF_ROOM, (*row, *batch.rooms.safe(message.channel)))
    if not is_in:
        with batch.transaction(execute):
            if batch.rooms.count(execute, message.name, message.channel, batch.now):
                is_in = execute(INSERT, row)
    if is_in:
        batch.posted[message.name] = is_in[0][0]
    return bool(is_in)


def post_all(execute: Execute, batch: Batch, messages: Iterable[Post]) -> int:
    """Stores a row for each that needs one.  Returns how many were for full channels."""
    return sum(
        not post(execute, batch, message) for message in messages if not message.is_handed_over
    )


class Member(NamedTuple):
    """Members of a group: a non-local name, and the local parts behind it, by commas."""

    name: str
    recipients: str
    #: When the first of them expires.
    until: float


def group_members(execute: Execute, group: str, now: float) -> list[Member]:
    """Each non-local name once."""
    return [Member(*row) for row in execute(MEMBERS, (group, now))]


class FlushMark(NamedTuple):
    """The last flush: rows before this id, and other messages before this time, are void."""

    id: int
    at: float


@dataclass(frozen=True, slots=True)
class Look:
    """What a process asks for: rows behind a cursor, and claims for receivers that wait.

    It first gives back what it has claimed in vain, so that a claim finds that in its old place.
    """

    now: float
    #: Process-local names, with the id of the last row read of each.
    cursors: Mapping[str, int]
    #: Plain channels, with how many receivers wait.
    wanted: Mapping[str, int]
    #: Claimed rows that nobody here waits for any more, with their channel.
    unclaimed: list[tuple[str, Claimed]] = field(default_factory=list)
    #: The last flush that the process knows of.
    flushed: FlushMark = FlushMark(0, 0.0)
    #: Whether rows are deleted as they are read, which leaves no cursor behind: in an in-memory
    #: database, where reading may be part of a test's transaction, which takes ids back.
    deletes: bool = False


class Row(NamedTuple):
    """A row of a process-local channel; it stays in the table until it is released."""

    id: int
    recipients: str
    data: bytes
    expires_at: float


class Claimed(NamedTuple):
    """A row of a plain channel; it is out of the table, and ours alone."""

    id: int
    data: bytes
    expires_at: float
    created_at: float


class Looked(NamedTuple):
    """What a look found, by channel name, in the order of ids."""

    rows: dict[str, list[Row]]
    claimed: dict[str, list[Claimed]]
    flushed: FlushMark | None = None
    #: Whether there was no more than could be read at once.
    is_all: bool = True
    #: Whether the rows are out of the table.
    is_deleted: bool = False
    #: Whether ids have begun again, as after ``manage.py flush``: the cursors mean nothing.
    is_rewound: bool = False


def look(execute: Execute, asked: Look) -> Looked:
    """Reads what waits for this process.

    Rows of its process-local channels need no claim: no other process may read them.  Those of a
    plain channel do, and a claim takes the write lock, so it is tried only where a row waits.
    Each statement is a transaction of its own: no read is held open.  Only writes are one together,
    and the last thing done: a failure leaves every row in its place, but in an in-memory database.
    """
    rows, claimed = {}, {}
    is_all = True
    cursor = max(asked.cursors.values(), default=0)
    if cursor and execute(LAST_ID, ()) < [(cursor,)]:
        return Looked({}, {}, is_rewound=True)
    marks = execute(FLUSH_MARK, ())
    flushed = FlushMark(*marks[0]) if marks else None
    for name, cursor in asked.cursors.items():
        found = execute(READ, (name, cursor, READ_LIMIT))
        if found:
            rows[name] = [
                Row(row, recipients.decode(errors="replace"), data, expires_at)
                for row, recipients, data, expires_at in found
            ]
            is_all = is_all and len(found) < READ_LIMIT
            if asked.deletes:
                execute(DELETE_READ, (name, found[-1][0]))
    back = {name for name, _ in asked.unclaimed}
    waiting = [
        name
        for name in asked.wanted
        if name in back or execute(IS_WAITING, (name, asked.now))[0][0]
    ]
    are_several = len(waiting) + len(asked.unclaimed) > 1 and not asked.deletes
    with writing(execute) if are_several else nullcontext():
        give_back(execute, asked.unclaimed)
        for name in waiting:
            taken = execute(CLAIM, (name, asked.now, asked.wanted[name]))
            # RETURNING promises no order (sqlite.org/lang_returning.html).
            claimed[name] = sorted(Claimed(*columns) for columns in taken)
    return Looked(rows, claimed, flushed, is_all, asked.deletes)


@dataclass(slots=True)
class Release:
    """What a process is through with."""

    #: Process-local names, with the id of the last row read of each.
    read: dict[str, int] = field(default_factory=dict)
    #: Rows whose receiver's buffer is over capacity: they stay, to tell senders so.  By id and
    #: process-local name.
    park: list[tuple[int, str]] = field(default_factory=list)
    #: Parked rows that were received now, by id and channel.
    received: list[tuple[int, str]] = field(default_factory=list)
    #: Claimed rows that nobody here waits for any more, with their channel.
    unclaimed: list[tuple[str, Claimed]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.read or self.park or self.received or self.unclaimed)


def release(execute: Execute, through: Release) -> None:
    """Deletes what was read, parks what has no room, gives back what nobody waits for."""
    for row in through.park:
        execute(PARK, row)
    for name, last in through.read.items():
        execute(DELETE_READ, (name, last))
    for row in through.received:
        execute(DELETE_ROW, row)
    give_back(execute, through.unclaimed)


def give_back(execute: Execute, unclaimed: Iterable[tuple[str, Claimed]]) -> None:
    """Puts claimed rows back under their old ids, and so in their old places of the order."""
    for name, (row_id, data, expires_at, created_at) in unclaimed:
        execute(GIVE_BACK, (row_id, created_at, expires_at, name, data, row_id))


def join(execute: Execute, group: str, channel: str, now: float, expires_at: float) -> None:
    """Makes the channel a member, or renews its membership."""
    execute(JOIN, (group, channel, expires_at, now))


def leave(execute: Execute, group: str, channel: str) -> None:
    """Ends a membership, if there is one."""
    execute(LEAVE, (group, channel))
