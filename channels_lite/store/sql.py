"""Every statement, once, and what is done with it.  Knows tables, not Django, loops or threads.

Each function takes an ``Execute`` first and is run by a store.  Times are seconds since 1970 UTC.

A row's ``channel_name`` is the non-local part of a channel's name.  What is behind the "!" of a
process-local channel is in ``recipients``: one local part, or those of all members a group has in
that process, so that a group message is one row per process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from channels_lite.store import Execute, writing
from channels_lite.store.occupancy import Occupancy

__all__ = [
    "Acknowledgement",
    "Batch",
    "Claimed",
    "Envelope",
    "FlushMark",
    "Look",
    "Looked",
    "Member",
    "Row",
    "Table",
    "acknowledge",
    "are_versions_kept",
    "claim",
    "generation_number",
    "group_members",
    "group_version",
    "insert",
    "insert_all",
    "join",
    "leave",
    "look",
    "oldest",
    "renew",
    "requeue",
    "schema_version",
    "table",
]

# While ids stay below what `Occupancy` knows to be safe, one statement is all a message takes.
INSERT_IF_ROOM = """
    INSERT INTO channels_lite_event
        (created_at, expires_at, channel_name, recipients, is_group, data)
    SELECT ?, ?, ?, ?, ?, ?
    WHERE (SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event') BETWEEN ? AND ?
    RETURNING id, (SELECT generation FROM channels_lite_boot)
"""
INSERT = """
    INSERT INTO channels_lite_event
        (created_at, expires_at, channel_name, recipients, is_group, data)
    VALUES (?, ?, ?, ?, ?, ?)
    RETURNING id, (SELECT generation FROM channels_lite_boot)
"""
TABLE = """
    SELECT coalesce(generation, 0), coalesce(began_at, 0.0), coalesce(flushed_id, 0),
        coalesce(flushed_at, 0.0),
        coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'channels_lite_event'), 0)
    FROM (SELECT 1) LEFT JOIN channels_lite_boot
"""
# One name after the other, each found by the index: as many steps as there are names with rows.
NAMES = """
    WITH RECURSIVE names (name) AS (
        SELECT min(channel_name) FROM channels_lite_event
        UNION ALL
        SELECT (SELECT min(channel_name) FROM channels_lite_event WHERE channel_name > name)
        FROM names WHERE name IS NOT NULL
    )
    SELECT name FROM names WHERE substr(name, -length(?1)) = ?1
"""
# How much there is to read; a row's length is known without reading it.
SIZE = """
    SELECT count(*), total(size) FROM
        (SELECT length(data) AS size FROM channels_lite_event
         WHERE channel_name = ? AND id > ? ORDER BY id LIMIT ?)
"""
SIZES = """
    SELECT length(data) FROM channels_lite_event
    WHERE channel_name = ? AND id > ? ORDER BY id LIMIT ?
"""
# Anybody may have written a row, of any types: text in another encoding would fail the statement.
READ = """
    SELECT id, CAST(recipients AS BLOB), is_group, CAST(data AS BLOB),
        coalesce(expires_at + 0.0, 0)
    FROM channels_lite_event
    WHERE channel_name = ? AND id > ? ORDER BY id LIMIT ?
"""
OLDEST = "SELECT min(id) FROM channels_lite_event WHERE channel_name = ?"
IS_WAITING = """
    SELECT EXISTS (SELECT 1 FROM channels_lite_event WHERE channel_name = ? AND expires_at > ?)
"""
WAITING_SIZES = """
    SELECT length(data) FROM channels_lite_event
    WHERE channel_name = ? AND expires_at > ? ORDER BY id LIMIT ?
"""
# The inner SELECT chooses, the DELETE claims: of two processes only one gets the row.
CLAIM = """
    DELETE FROM channels_lite_event WHERE id IN
        (SELECT id FROM channels_lite_event WHERE channel_name = ? AND expires_at > ?
         ORDER BY id LIMIT ?)
    RETURNING id, CAST(data AS BLOB), coalesce(expires_at + 0.0, 0),
        coalesce(created_at + 0.0, 0),
        coalesce((SELECT generation FROM channels_lite_boot), 0)
"""
RENEW = "UPDATE channels_lite_boot SET generation = max(?, generation + 1) WHERE generation = ?"
DELETE_READ = "DELETE FROM channels_lite_event WHERE channel_name = ? AND id <= ?"
# Unless there was a flush since; after Django's ids begin again, and it may be another's.
REQUEUE = """
    INSERT INTO channels_lite_event
        (id, created_at, expires_at, channel_name, recipients, is_group, data)
    SELECT ?, ?, ?, ?, '', 0, ?
    WHERE ? >= coalesce((SELECT flushed_id FROM channels_lite_boot), 0)
        AND ? IN (0, coalesce((SELECT generation FROM channels_lite_boot), 0))
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
# A version names what the members of a group are, for ever (see migration 0004).  It is kept by
# triggers, and changes of the schema are how they are lost.
SCHEMA_VERSION = "PRAGMA schema_version"
TRIGGERS = """
    SELECT count(*) FROM sqlite_master
    WHERE type = 'trigger' AND tbl_name = 'channels_lite_groupmembership' AND name IN
        ('channels_lite_groupversion_insert', 'channels_lite_groupversion_update',
         'channels_lite_groupversion_delete')
"""
GROUP_VERSION = "SELECT version FROM channels_lite_groupversion WHERE group_name = ?"
#: Rows of one channel that a look or a claim takes at most, and bytes of them, but for a first row
#: that is larger; the rest is for the next one.
READ_LIMIT = 1000
READ_BYTES = 256 * 1024


@dataclass(slots=True)
class Envelope:
    """A message on its way to the channels of one process, or to a plain channel."""

    #: Its non-local name, and the local parts of the channels, separated by commas.
    name: str
    recipients: str
    #: The full name of the one channel that it is for; "": it is for members of a group, and those
    #: that are full miss it.
    channel: str
    data: bytes
    created_at: float
    expires_at: float
    #: It needs no row: the process has it, or the channel is known to be full.
    is_settled: bool = False
    is_refused: bool = False


class Admission(Protocol):
    """Whether rows for other processes may be put, and what is on its way because of a batch."""

    def admits(self, envelope: Envelope, oldest: Callable[[str], int | None]) -> bool:
        """Whether there is room for this row; ``oldest`` is the id of the oldest row of a name."""

    def admit(self, envelope: Envelope, row: int) -> None:
        """It is in the table, under this id."""

    def committed(self) -> None:
        """The batch is."""


@dataclass(slots=True)
class Batch:
    """What the writes that are committed together have in common."""

    now: float
    occupancy: Occupancy
    #: What the batch adds to what is on its way to other processes.
    admission: Admission
    #: Whether there is no transaction, for there is one write only.
    is_alone: bool = False
    #: The highest id that this process knows of, and the generation that it was of before.
    last_id: int = 0
    last_generation: int = 0
    #: Whether a row got an id that is no higher, in a table that has no generation to tell of it.
    is_rewound: bool = False
    #: Non-local names that got a row: whose readers are to be woken after the commit.  With its id.
    inserted: dict[str, int] = field(default_factory=dict)
    #: Of the table that the rows were put into; None: none were.
    generation: int | None = None

    def transaction(self, execute: Execute) -> AbstractContextManager[None]:
        """For a write of several statements, which makes its own if it is alone."""
        return writing(execute) if self.is_alone else nullcontext()


def insert(execute: Execute, batch: Batch, envelope: Envelope) -> bool:
    """Stores a row, if there is room.  False: there is none."""
    row = (
        batch.now,
        envelope.expires_at,
        envelope.name,
        envelope.recipients,
        not envelope.channel,
        envelope.data,
    )
    if envelope.name.endswith("!"):
        if not batch.admission.admits(envelope, partial(oldest, execute)):
            return False
        is_in = execute(INSERT, row)
        batch.admission.admit(envelope, is_in[0][0])
    else:
        is_in = execute(INSERT_IF_ROOM, (*row, *batch.occupancy.safe(envelope.name)))
        if not is_in:
            with batch.transaction(execute):
                if batch.occupancy.count(execute, envelope.name, batch.now):
                    is_in = execute(INSERT, row)
    if is_in:
        row_id, generation = is_in[0]
        batch.inserted[envelope.name] = row_id
        batch.generation = generation or 0  # somebody may have emptied the table of boots
        if row_id <= batch.last_id and batch.generation == batch.last_generation:
            _begin_again(execute, batch)
        batch.last_id = row_id
    return bool(is_in)


def _begin_again(execute: Execute, batch: Batch) -> None:
    """Ids do, and nobody has said so: as in a file that was restored while it was in use."""
    renew(execute, batch.last_generation)
    batch.generation = table(execute).generation
    batch.is_rewound = not batch.generation


def renew(execute: Execute, generation: int) -> None:
    """Begins another generation, unless somebody has: ids have begun again."""
    execute(RENEW, (generation_number(), generation))


def generation_number() -> int:
    """That of one that begins now: higher than any before, also where those are not known."""
    return int(time.time() * 1000)


def oldest(execute: Execute, name: str) -> int | None:
    """The id of the oldest row of ``name``; None: there is none."""
    return execute(OLDEST, (name,))[0][0]  # type: ignore[no-any-return]


def insert_all(execute: Execute, batch: Batch, envelopes: Iterable[Envelope]) -> int:
    """Stores a row for each that needs one.  Returns how many members and channels missed it."""
    return sum(
        envelope.recipients.count(",") + 1
        for envelope in envelopes
        if envelope.is_refused or not (envelope.is_settled or insert(execute, batch, envelope))
    )


class Member(NamedTuple):
    """Members of a group: a non-local name, and their local parts, separated by commas."""

    name: str
    recipients: str
    #: When the first of them expires.
    until: float


def group_members(execute: Execute, group: str, now: float) -> list[Member]:
    """Each non-local name once."""
    return [Member(*row) for row in execute(MEMBERS, (group, now))]


def schema_version(execute: Execute) -> int:
    """Another number after each change of the schema, by whomever."""
    return int(execute(SCHEMA_VERSION, ())[0][0])


def are_versions_kept(execute: Execute) -> bool:
    """Whether the triggers are there: they are lost where somebody rebuilds the table."""
    return bool(execute(TRIGGERS, ())[0][0] == 3)


def group_version(execute: Execute, group: str) -> int | None:
    """Another number after each change of the group's members; None: nothing is known of it."""
    found = execute(GROUP_VERSION, (group,))
    return found[0][0] if found else None


class FlushMark(NamedTuple):
    """The last flush: rows before this id, and other messages before this time, are void."""

    id: int
    at: float

    def voids(self, row: int, created_at: float) -> bool:
        """Whether a message, without a row if that is 0, was sent before the flush."""
        return row < self.id if row else created_at < self.at


class Table(NamedTuple):
    """What the table says of itself."""

    #: Ids, and times, mean something within one generation only.  It is another, higher number
    #: after ``manage.py flush``, and after ids were seen to begin again; 0: none was begun yet.
    generation: int = 0
    #: See `clock`.
    began_at: float = 0.0
    flushed: FlushMark = FlushMark(0, 0.0)
    last_id: int = 0

    def is_new(self, generation: int, last_id: int) -> bool:
        """Whether an id, and what was read up to it, means nothing any more."""
        return not self.generation or self.generation != generation or self.last_id < last_id


def table(execute: Execute) -> Table:
    """Asks."""
    generation, began_at, *flushed, last_id = execute(TABLE, ())[0]
    return Table(generation, began_at, FlushMark(*flushed), last_id)


@dataclass(frozen=True, slots=True)
class Look:
    """What a process asks for: the rows of its process-local channels, behind its cursors."""

    now: float
    token: str
    #: Its non-local names; None: there are many, so those that have rows are to be found.
    names: Collection[str] | None
    #: With the id of the last row read of each.
    cursors: Mapping[str, int]
    #: What the cursors are of, and the highest id that the process has read in it.
    generation: int = 0
    last_id: int = 0
    #: Every row up to this id was committed before: if it is there, the look finds it.
    committed: int = 0
    #: Whether rows are deleted as they are read, which leaves no cursor behind: in an in-memory
    #: database, where reading may be part of a test's transaction, which takes ids back.
    deletes: bool = False


class Row(NamedTuple):
    """A row of a process-local channel; it stays in the table until it is acknowledged."""

    id: int
    recipients: str
    is_group: bool
    data: bytes
    expires_at: float


class Looked(NamedTuple):
    """What a look found."""

    table: Table
    #: By non-local name, in the order of ids.
    rows: dict[str, list[Row]]
    #: Whether there was no more than could be read at once.
    is_all: bool = True
    #: Whether the table is of another generation than the cursors.
    is_new: bool = False


def look(execute: Execute, asked: Look) -> Looked:
    """Reads what waits for this process.  Waits for no lock, but for ``deletes``.

    Each statement is a transaction of its own: no read is held open.  So the generation comes last,
    or rows of the next one could be taken for those of this one.  With ``deletes`` it comes first,
    for what is deleted has to be taken.
    """
    if asked.deletes:
        before = table(execute)
        if before.last_id < asked.last_id:
            return Looked(before, {}, is_new=True)
    rows, is_all = _read(execute, asked)
    now = table(execute)
    if not asked.deletes and now.is_new(asked.generation, asked.last_id):
        return Looked(now, {}, is_new=True)
    return Looked(now, rows, is_all)


def _read(execute: Execute, asked: Look) -> tuple[dict[str, list[Row]], bool]:
    """The rows, and whether they are all."""
    names = asked.names
    if names is None:
        names = [name for (name,) in execute(NAMES, (f"{asked.token}!",))]
    rows: dict[str, list[Row]] = {}
    is_all = True
    for name in names:
        cursor = asked.cursors.get(name, 0)
        [(count, size)] = execute(SIZE, (name, cursor, READ_LIMIT))
        if not count:
            continue
        if count == READ_LIMIT or size > READ_BYTES:
            is_all = False
        if size > READ_BYTES:
            count = _within(READ_BYTES, execute(SIZES, (name, cursor, count)))
        found = execute(READ, (name, cursor, count))
        if found:
            rows[name] = [
                Row(row, recipients.decode(errors="replace"), bool(is_group), data, expires_at)
                for row, recipients, is_group, data, expires_at in found
            ]
            if asked.deletes:
                execute(DELETE_READ, (name, found[-1][0]))
    return rows, is_all


def _within(most: int, sizes: Iterable[tuple[int]]) -> int:
    """How many rows of these sizes are within so many bytes; one at least."""
    count = 0
    for (size,) in sizes:
        most -= size
        if most < 0 and count:
            break
        count += 1
    return max(1, count)


class Claimed(NamedTuple):
    """A row of a plain channel; it is out of the table, and ours alone."""

    id: int
    data: bytes
    expires_at: float
    created_at: float
    #: Of the table that it was in, by which its id goes; 0: none was begun yet.
    generation: int = 0


def claim(
    execute: Execute, wanted: Mapping[str, int], now: float, *, is_in_transaction: bool
) -> dict[str, list[Claimed]]:
    """Takes out so many rows of each of these plain channels, if there are any.

    The write lock is taken only where a row waits.
    """
    waiting = [name for name in wanted if execute(IS_WAITING, (name, now))[0][0]]
    claimed = {}
    is_lone = is_in_transaction or len(waiting) < 2  # a statement is a transaction
    with nullcontext() if is_lone else writing(execute):
        for name in waiting:
            count = wanted[name]
            if count > 1:
                count = _within(READ_BYTES, execute(WAITING_SIZES, (name, now, count)))
            taken = execute(CLAIM, (name, now, count))
            # RETURNING promises no order (sqlite.org/lang_returning.html).
            claimed[name] = sorted(Claimed(*columns) for columns in taken)
    return claimed


@dataclass(slots=True)
class Acknowledgement:
    """What a process is through with: names, with the id of the last row read of each."""

    generation: int
    read: dict[str, int]


def acknowledge(execute: Execute, through: Acknowledgement) -> None:
    """Deletes what was read, in a transaction: unless ids have begun again since."""
    if not table(execute).is_new(through.generation, max(through.read.values())):
        for name, last in through.read.items():
            execute(DELETE_READ, (name, last))


def requeue(execute: Execute, unwanted: Iterable[tuple[str, Claimed]]) -> None:
    """Puts claimed rows back under their old ids, and so in their old places of the order.

    Unless ids have begun again since.
    """
    for name, (row_id, data, expires_at, created_at, generation) in unwanted:
        row = row_id, created_at, expires_at, name, data
        execute(REQUEUE, (*row, row_id, generation))


def join(execute: Execute, group: str, channel: str, now: float, expires_at: float) -> None:
    """Makes the channel a member, or renews its membership."""
    execute(JOIN, (group, channel, expires_at, now))


def leave(execute: Execute, group: str, channel: str) -> None:
    """Ends a membership, if there is one."""
    execute(LEAVE, (group, channel))
