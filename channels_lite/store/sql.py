"""Every statement, once, and what is done with it.  Knows tables, not Django, loops or threads.

Each function takes an ``Execute`` first and is run by a store.  Times are seconds since 1970 UTC.

A row's ``channel_name`` is the non-local part of a channel's name.  What is behind the "!" of a
process-local channel is in ``recipients``: one local part, or those of all members a group has in
that process, so that a group message is one row per process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from channels_lite.store import Execute, writing

__all__ = [
    "FLUSHED",
    "Batch",
    "Claimed",
    "FlushMark",
    "Look",
    "Looked",
    "Member",
    "Post",
    "Release",
    "Rooms",
    "Row",
    "begin_boot",
    "boot",
    "expire",
    "flush",
    "group_members",
    "join",
    "leave",
    "look",
    "post",
    "post_all",
    "release",
    "split",
]

#: ``channel_name`` of the mark that flush() leaves: what is older, in whose memory ever, is void.
FLUSHED = "!"

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
COUNT = """
    SELECT (SELECT count(*) FROM
                (SELECT 1 FROM channels_lite_event WHERE channel_name = ? AND id > ? LIMIT ?)),
           EXISTS (SELECT 1 FROM channels_lite_event WHERE channel_name = ?),
           coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event'), 0)
"""
DROP_EXPIRED = "DELETE FROM channels_lite_event WHERE channel_name = ? AND expires_at <= ?"
READ = """
    SELECT id, recipients, data, expires_at FROM channels_lite_event
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
    RETURNING id, data, expires_at, created_at
"""
LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event'"
FLUSH_MARK = "SELECT id, created_at FROM channels_lite_event WHERE channel_name = ?"
DELETE_READ = "DELETE FROM channels_lite_event WHERE channel_name = ? AND id <= ?"
PARK = "UPDATE channels_lite_event SET channel_name = channel_name || recipients WHERE id = ?"
DELETE_ROW = "DELETE FROM channels_lite_event WHERE id = ?"
GIVE_BACK = """
    INSERT INTO channels_lite_event (id, created_at, expires_at, channel_name, recipients, data)
    VALUES (?, ?, ?, ?, '', ?)
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
        (SELECT channel_name, expires_at, coalesce(nullif(instr(channel_name, '!'), 0), 100) AS bang
         FROM channels_lite_groupmembership WHERE group_name = ? AND expires_at > ?)
    GROUP BY 1
"""
BOOT = "SELECT began_at, boot_id FROM channels_lite_boot"
SET_BOOT = "INSERT OR REPLACE INTO channels_lite_boot (id, boot_id, began_at) VALUES (1, ?, ?)"
CHUNK_END = "SELECT max(id) FROM (SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT ?)"
EXPIRE_CHUNK = "DELETE FROM {table} WHERE id > ? AND id <= ? AND expires_at <= ?"

#: Seconds that the mark of a flush is kept: longer than any message in somebody's memory.
FLUSH_MARK_EXPIRY = 86400.0
#: What no last id is between.
NOWHERE = (0, -1)
#: Rows of one channel that a look reads at most; the rest is for the next one.
READ_LIMIT = 1000


class Rooms:
    """How full channels are, without counting for each message.

    A channel that had room for n messages when the table's last id was i has room as long as ids
    stay below i + n, whoever inserts and wherever.  Only beyond that does it take a new count; and
    below i, where ids have begun anew (``manage.py flush``).

    Capacity holds for the non-local part of a name, shared by all its channels, until the receiving
    process has read a row; from then on for each of its channels, by the receiver's buffer.  A
    full buffer shows across processes as a row that is parked under the channel's full name.
    """

    #: Channels remembered at most.
    LIMIT = 10_000

    def __init__(
        self,
        capacity: Callable[[str], int | None],
        seen: Callable[[str], int],
        buffered: Callable[[str], int],
    ) -> None:
        #: Most messages that may wait on a channel; None: no limit.
        self._capacity = capacity
        #: Behind which id a name's rows count: a process does not count what it has read itself.
        self._seen = seen
        #: Messages of a channel that wait in this process's memory.
        self._buffered = buffered
        self._safe: dict[str, tuple[int, int]] = {}

    def safe(self, channel: str) -> tuple[int, int]:
        """Between which last ids, both included, ``channel`` has room for sure."""
        return self._safe.get(channel, NOWHERE)

    def unremembered(self) -> Rooms:
        """The same for a transaction that may be rolled back, and its ids with it."""
        return Rooms(self._capacity, self._seen, self._buffered)

    def count(self, execute: Execute, name: str, channel: str, now: float) -> bool:
        """Counts, and remembers.  Whether there is room.  In a transaction."""
        limit = self._capacity(channel)
        if limit is None:
            self._remember(channel, (0, 2**63 - 1))
            return True
        parked = channel if channel != name else None
        asked = (name, self._seen(name), limit, parked)
        [(waiting, is_parked, last)] = execute(COUNT, asked)
        if waiting >= limit or is_parked:
            # Only now are expired rows told apart: it costs a look-up for each.
            execute(DROP_EXPIRED, (name, now))
            execute(DROP_EXPIRED, (parked, now))
            [(waiting, is_parked, last)] = execute(COUNT, asked)
        room = 0 if is_parked else limit - waiting - self._buffered(channel)
        self._remember(channel, (last, last + room - 1))
        return room > 0

    def _remember(self, channel: str, safe: tuple[int, int]) -> None:
        if len(self._safe) >= self.LIMIT:
            self._safe.clear()
        self._safe[channel] = safe


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
    #: Whether there is no transaction, for there is one write only: it makes its own if it must.
    is_alone: bool = False
    #: Non-local names that got a row: whose readers are to be woken after the commit.  With its id.
    posted: dict[str, int] = field(default_factory=dict)


def split(channel: str) -> tuple[str, str]:
    """The non-local part of a channel's name, with its "!", and what is behind that."""
    bang = channel.find("!") + 1
    return (channel[:bang], channel[bang:]) if bang else (channel, "")


def post(execute: Execute, batch: Batch, message: Post) -> bool:
    """Stores a row, if there is room.  False: the channel is full."""
    row = (batch.now, message.expires_at, message.name, message.recipients, message.data)
    is_in = execute(INSERT_IF_ROOM, (*row, *batch.rooms.safe(message.channel)))
    if not is_in:
        with writing(execute) if batch.is_alone else nullcontext():
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


@dataclass(frozen=True, slots=True)
class Look:
    """What a process asks for: rows behind a cursor, and claims for receivers that wait."""

    now: float
    #: Process-local names, with the id of the last row read of each.
    cursors: Mapping[str, int]
    #: Plain channels, with how many receivers wait.
    wanted: Mapping[str, int]
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


class FlushMark(NamedTuple):
    """The last flush: rows before this id, and other messages before this time, are void."""

    id: int
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
    Each statement is a transaction of its own: no read is held open.
    """
    rows, claimed = {}, {}
    is_all = True
    cursor = max(asked.cursors.values(), default=0)
    if cursor and execute(LAST_ID, ()) < [(cursor,)]:
        return Looked({}, {}, is_rewound=True)
    marks = execute(FLUSH_MARK, (FLUSHED,))
    flushed = FlushMark(*marks[0]) if marks else None
    for name, cursor in asked.cursors.items():
        found = execute(READ, (name, cursor, READ_LIMIT))
        if found:
            rows[name] = [Row(*columns) for columns in found]
            is_all = is_all and len(found) < READ_LIMIT
            if asked.deletes:
                execute(DELETE_READ, (name, found[-1][0]))
    for name, receivers in asked.wanted.items():
        if execute(IS_WAITING, (name, asked.now))[0][0]:
            taken = execute(CLAIM, (name, asked.now, receivers))
            # RETURNING promises no order (sqlite.org/lang_returning.html).
            claimed[name] = sorted(Claimed(*columns) for columns in taken)
    return Looked(rows, claimed, flushed, is_all, asked.deletes)


@dataclass(slots=True)
class Release:
    """What a process is through with."""

    #: Process-local names, with the id of the last row read of each.
    read: dict[str, int] = field(default_factory=dict)
    #: Rows whose receiver's buffer is over capacity: they stay, to tell senders so.
    park: list[int] = field(default_factory=list)
    #: Parked rows that were received now.
    received: list[int] = field(default_factory=list)
    #: Claimed rows that nobody here waits for any more, with their channel.
    unclaimed: list[tuple[str, Claimed]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.read or self.park or self.received or self.unclaimed)


def release(execute: Execute, through: Release) -> None:
    """Deletes what was read, parks what has no room, gives back what nobody waits for."""
    for row in through.park:
        execute(PARK, (row,))
    for name, last in through.read.items():
        execute(DELETE_READ, (name, last))
    for row in through.received:
        execute(DELETE_ROW, (row,))
    for name, claimed in through.unclaimed:
        # Under its old id, and so in its old place of the order.
        row_id, data, expires_at, created_at = claimed
        execute(GIVE_BACK, (row_id, created_at, expires_at, name, data))


def join(execute: Execute, group: str, channel: str, now: float, expires_at: float) -> None:
    """Makes the channel a member, or renews its membership."""
    execute(JOIN, (group, channel, expires_at, now))


def leave(execute: Execute, group: str, channel: str) -> None:
    """Ends a membership, if there is one."""
    execute(LEAVE, (group, channel))


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


def flush(execute: Execute, now: float) -> None:
    """Deletes all messages and groups, and voids what processes have in memory."""
    execute("DELETE FROM channels_lite_event", ())
    execute("DELETE FROM channels_lite_groupmembership", ())
    execute(INSERT, (now, now + FLUSH_MARK_EXPIRY, FLUSHED, "", b""))


def expire(execute: Execute, table: str, after: int, now: float, limit: int) -> tuple[int, int]:
    """Deletes the expired among the ``limit`` rows behind id ``after``: a step of a sweep.

    Returns how many, and where the next step begins; 0 when the sweep has reached the end.
    No index by expiry: every message would pay for it, and a sweep reads each row once.
    """
    [(last,)] = execute(CHUNK_END.format(table=table), (after, limit))
    if last is None:
        return 0, 0
    execute(EXPIRE_CHUNK.format(table=table), (after, last, now))
    [(deleted,)] = execute("SELECT changes()", ())
    return deleted, last
