"""Every statement, once, and what is done with it.  Knows tables, not Django, loops or threads.

Each function takes an ``Execute`` first and is run by a store.  Times are seconds since 1970 UTC.

A row's ``channel_name`` is the non-local part of a channel's name.  What is behind the "!" of a
process-local channel is in ``recipients``: one local part, or those of all members a group has in
that process, so that a group message is one row per process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from channels_lite.store import Execute

__all__ = [
    "FLUSHED",
    "Batch",
    "Claimed",
    "Look",
    "Looked",
    "Release",
    "Row",
    "expire",
    "flush",
    "group_members",
    "join",
    "leave",
    "look",
    "post",
    "post_to_group",
    "release",
]

#: ``channel_name`` of the mark that flush() leaves: what is older, in whose memory ever, is void.
FLUSHED = "!"

COUNT = """
    SELECT (SELECT count(*) FROM
                (SELECT 1 FROM channels_lite_event WHERE channel_name = ? AND id > ? LIMIT ?)),
           EXISTS (SELECT 1 FROM channels_lite_event WHERE channel_name = ?)
"""
DROP_EXPIRED = "DELETE FROM channels_lite_event WHERE channel_name = ? AND expires_at <= ?"
INSERT = """
    INSERT INTO channels_lite_event (created_at, expires_at, channel_name, recipients, data)
    VALUES (?, ?, ?, ?, ?)
"""
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
FLUSH_MARK = "SELECT max(id) FROM channels_lite_event WHERE channel_name = ?"
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
    SELECT substr(channel_name, 1, bang), group_concat(substr(channel_name, bang + 1)) FROM
        (SELECT channel_name, coalesce(nullif(instr(channel_name, '!'), 0), 100) AS bang
         FROM channels_lite_groupmembership WHERE group_name = ? AND expires_at > ?)
    GROUP BY 1
"""
CHUNK_END = "SELECT max(id) FROM (SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT ?)"
EXPIRE_CHUNK = "DELETE FROM {table} WHERE id > ? AND id <= ? AND expires_at <= ?"

#: Rows of one channel that a look reads at most; the rest is for the next one.
READ_LIMIT = 1000


@dataclass(slots=True)
class Batch:
    """What the sends of one transaction have in common: the time, and how full channels are."""

    now: float
    #: Most messages that may wait on a channel; None: no limit.
    capacity: Callable[[str], int | None]
    #: Behind which id a channel's rows count: a process does not count what it has read itself.
    seen: Callable[[str], int]
    #: Messages of a process-local channel that wait in this process's memory.
    buffered: Callable[[str], int]
    #: Non-local names that got a row: whose readers are to be woken after the commit.
    posted: set[str] = field(default_factory=set)
    #: Places left, by non-local name and by whole channel.
    _room: dict[str, int] = field(default_factory=dict)
    _own_room: dict[str, int] = field(default_factory=dict)

    def has_room(self, execute: Execute, name: str, channel: str) -> bool:
        """Takes one place of channel ``channel``, whose non-local part is ``name``.

        Capacity holds for the non-local part, shared by all its channels, until the receiving
        process has read a row; from then on for each channel of its own, by the receiver's
        buffer.  A full buffer shows across processes as a row under the channel's full name.
        """
        limit = self.capacity(channel)
        if limit is None:
            return True
        if channel not in self._own_room:
            self._count(execute, name, channel, limit)
        if self._room[name] <= 0 or self._own_room[channel] <= 0:
            return False
        self._room[name] -= 1
        if channel != name:
            self._own_room[channel] -= 1
        return True

    def _count(self, execute: Execute, name: str, channel: str, limit: int) -> None:
        seen = self.seen(name)
        parked = channel if channel != name else None
        [(waiting, is_parked)] = execute(COUNT, (name, seen, limit, parked))
        if waiting >= limit or is_parked:
            # Expired rows are counted until this moment: they cost a look-up each to tell apart.
            execute(DROP_EXPIRED, (name, self.now))
            execute(DROP_EXPIRED, (parked, self.now))
            [(waiting, is_parked)] = execute(COUNT, (name, seen, limit, parked))
        self._room.setdefault(name, limit - waiting)
        own_room = 0 if is_parked else limit - waiting - self.buffered(channel)
        self._own_room[channel] = own_room


class Post(NamedTuple):
    """A message on its way into the table."""

    target: str
    data: bytes
    expires_at: float


def post(execute: Execute, batch: Batch, message: Post) -> bool:
    """Stores a message for a channel.  False: the channel is full."""
    channel = message.target
    bang = channel.find("!") + 1
    name, local = (channel[:bang], channel[bang:]) if bang else (channel, "")
    if not batch.has_room(execute, name, channel):
        return False
    execute(INSERT, (batch.now, message.expires_at, name, local, message.data))
    batch.posted.add(name)
    return True


def post_to_group(execute: Execute, batch: Batch, message: Post) -> int:
    """Stores a message once per process of a group.  Returns how many of those were full."""
    full = 0
    for name, recipients in group_members(execute, message.target, batch.now):
        if batch.has_room(execute, name, name):
            execute(INSERT, (batch.now, message.expires_at, name, recipients, message.data))
            batch.posted.add(name)
        else:
            full += 1
    return full


def group_members(execute: Execute, group: str, now: float) -> list[tuple[str, str]]:
    """The members' non-local names, each once, with the local parts behind it, by commas."""
    return execute(MEMBERS, (group, now))


@dataclass(frozen=True, slots=True)
class Look:
    """What a process asks for: rows behind a cursor, and claims for receivers that wait."""

    now: float
    #: Process-local names, with the id of the last row read of each.
    cursors: Mapping[str, int]
    #: Plain channels, with how many receivers wait.
    wanted: Mapping[str, int]
    #: Whether messages wait in memory, which a flush elsewhere would void.
    asks_for_flush: bool


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
    flushed: int
    is_all: bool


def look(execute: Execute, asked: Look) -> Looked:
    """Reads what waits for this process.

    Rows of its process-local channels need no claim: no other process may read them.  Those of a
    plain channel do, and a claim takes the write lock, so it is tried only where a row waits.
    Each statement is a transaction of its own: no read is held open.
    """
    rows, claimed = {}, {}
    is_all = True
    flushed = 0
    if asked.asks_for_flush:
        flushed = execute(FLUSH_MARK, (FLUSHED,))[0][0] or 0
    for name, cursor in asked.cursors.items():
        found = execute(READ, (name, cursor, READ_LIMIT))
        if found:
            rows[name] = [Row(*columns) for columns in found]
            is_all = is_all and len(found) < READ_LIMIT
    for name, receivers in asked.wanted.items():
        if execute(IS_WAITING, (name, asked.now))[0][0]:
            taken = execute(CLAIM, (name, asked.now, receivers))
            # RETURNING promises no order (sqlite.org/lang_returning.html).
            claimed[name] = sorted(Claimed(*columns) for columns in taken)
    return Looked(rows, claimed, flushed, is_all)


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


def flush(execute: Execute, now: float, expires_at: float) -> None:
    """Deletes all messages and groups, and voids what processes have in memory."""
    execute("DELETE FROM channels_lite_event", ())
    execute("DELETE FROM channels_lite_groupmembership", ())
    execute(INSERT, (now, expires_at, FLUSHED, "", b""))


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
