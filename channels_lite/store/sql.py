"""Every SQL statement, once, and its use.  Knows the tables, but not Django, loops or threads.

Each function takes an ``Execute`` first, and a store runs it.  Times are seconds since 1970 UTC.

A row's ``channel_name`` is the non-local part of a channel's name.  The part after the "!" of a
process-local channel is in ``recipients``: one local part, or those of all the group's members in
that process, so that a group message is one row for each process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

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
    "within",
]

# While ids stay in the range that `Occupancy` knows to be safe, a message needs only one statement.
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
# Finds one name after the other by the index, in as many steps as there are names with rows.
NAMES = """
    WITH RECURSIVE names (name) AS (
        SELECT min(channel_name) FROM channels_lite_event
        UNION ALL
        SELECT (SELECT min(channel_name) FROM channels_lite_event WHERE channel_name > name)
        FROM names WHERE name IS NOT NULL
    )
    SELECT name FROM names WHERE substr(name, -length(?)) = ?
"""
# The amount to read.  SQLite knows a row's length without reading the row.
SIZE = """
    SELECT count(*), total(size) FROM
        (SELECT length(data) AS size FROM channels_lite_event
         WHERE channel_name = ? AND id > ? ORDER BY id LIMIT ?)
"""
SIZES = """
    SELECT length(data) FROM channels_lite_event
    WHERE channel_name = ? AND id > ? ORDER BY id LIMIT ?
"""
# Other programs may write rows with any types.  Text in another encoding would fail the statement.
READ = """
    SELECT id, CAST(recipients AS BLOB), is_group, CAST(data AS BLOB),
        coalesce(expires_at + 0.0, 0)
    FROM channels_lite_event
    WHERE channel_name = ? AND id > ? ORDER BY id LIMIT ?
"""
OLDEST = "SELECT min(id) FROM channels_lite_event WHERE channel_name = ?"
WAITING = """
    SELECT EXISTS (SELECT 1 FROM channels_lite_event WHERE channel_name = ? AND expires_at > ?)
"""
# The inner SELECT chooses, the DELETE claims: of two processes only one gets the row.  The last
# column is the size of the next row; NULL: none is left.  A list of ids instead of one, even with
# one id, would be a temporary table.
CLAIM = """
    DELETE FROM channels_lite_event WHERE id =
        (SELECT id FROM channels_lite_event WHERE channel_name = ? AND expires_at > ?
         ORDER BY id LIMIT 1)
    RETURNING id, CAST(data AS BLOB), coalesce(expires_at + 0.0, 0),
        coalesce(created_at + 0.0, 0),
        coalesce((SELECT generation FROM channels_lite_boot), 0),
        (SELECT length(CAST(data AS BLOB)) FROM channels_lite_event
         WHERE channel_name = ? AND expires_at > ? ORDER BY id LIMIT 1)
"""
RENEW = "UPDATE channels_lite_boot SET generation = max(?, generation + 1) WHERE generation = ?"
DELETE_READ = "DELETE FROM channels_lite_event WHERE channel_name = ? AND id <= ?"
# Unless there was a flush since.  After Django's flush ids start again, and this id may be reused.
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
# A version identifies one set of members of a group, forever (see migration 0004).  Triggers keep
# it, and a change of the schema may drop them.
SCHEMA_VERSION = "PRAGMA schema_version"
TRIGGERS = """
    SELECT count(*) FROM sqlite_master
    WHERE type = 'trigger' AND tbl_name = 'channels_lite_groupmembership' AND name IN
        ('channels_lite_groupversion_insert', 'channels_lite_groupversion_update',
         'channels_lite_groupversion_delete')
"""
GROUP_VERSION = "SELECT version FROM channels_lite_groupversion WHERE group_name = ?"
#: The maximum number of rows of one channel in a look or a claim, and of their bytes, except if the
#: first row is larger.  The next one takes the rest.
READ_LIMIT = 1000
READ_BYTES = 256 * 1024


class Envelope(msgspec.Struct, eq=False, gc=False):
    """A message on its way to the channels of one process, or to a plain channel."""

    #: The non-local name, and the local parts of the channels, separated by commas.
    name: str
    recipients: str
    #: The full name of its one channel; "" if it is for members of a group, which miss it if they
    #: are full.
    channel: str
    data: bytes
    created_at: float
    expires_at: float
    #: It needs no row, because the process has it, or because the channel is known to be full.
    is_settled: bool = False
    is_refused: bool = False


class Admission(Protocol):
    """Decides whether rows for other processes may be written, and counts those of a batch."""

    def admits(self, envelope: Envelope, oldest: Callable[[str], int | None]) -> bool:
        """Whether there is room for this row.  ``oldest`` returns the oldest id of a name."""

    def admit(self, envelope: Envelope, row: int) -> None:
        """The row is in the table, with this id."""

    def committed(self) -> None:
        """The batch is committed."""


class Batch(msgspec.Struct, eq=False):
    """The common data of writes that are committed together."""

    now: float
    occupancy: Occupancy
    #: Counts what the batch adds to the rows on their way to other processes.
    admission: Admission
    #: Whether there is only one write, and so no transaction.
    is_alone: bool = False
    #: The highest id that this process knows, and its generation before this batch.
    last_id: int = 0
    last_generation: int = 0
    #: Whether a row got an id that is not higher, in a table without a generation.
    is_rewound: bool = False
    #: Non-local names that got a row, with its id.  The commit wakes their readers.
    inserted: dict[str, int] = {}
    #: Non-local names whose processes have members of a group that has got a message.
    woken: set[str] = set()
    #: Whether all processes are woken, because the members have just changed.
    wakes_all: bool = False
    #: The members of such groups, and their versions.
    members: dict[str, tuple[list[Member], int | None]] = {}
    #: The generation of the table with these rows; None: there are no rows.
    generation: int | None = None

    def transaction(self, execute: Execute) -> AbstractContextManager[None]:
        """For a write of several statements: a transaction, if the write is alone."""
        is_alone, self.is_alone = self.is_alone, False
        return writing(execute) if is_alone else nullcontext()


def insert(execute: Execute, batch: Batch, envelope: Envelope) -> bool:
    """Stores a row, if there is room.  False: there is no room."""
    row = (
        batch.now,
        envelope.expires_at,
        envelope.name,
        envelope.recipients,
        0 if envelope.channel else 1,  # sqlite3 would look for an adapter of bool
        envelope.data,
    )
    if "!" in envelope.name:
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
        batch.generation = generation or 0  # the table of boots may have been emptied
        if row_id <= batch.last_id and batch.generation == batch.last_generation:
            _begin_again(execute, batch)
        batch.last_id = row_id
    return bool(is_in)


def _begin_again(execute: Execute, batch: Batch) -> None:
    """Ids have started again without a new generation: a file was restored while in use."""
    renew(execute, batch.last_generation)
    batch.generation = table(execute).generation
    batch.is_rewound = not batch.generation


def renew(execute: Execute, generation: int) -> None:
    """Begins another generation, because ids have started again, unless a process has done so."""
    execute(RENEW, (generation_number(), generation))


def generation_number() -> int:
    """The number of a generation that begins now: higher than all earlier ones, even lost ones."""
    return int(time.time() * 1000)


def oldest(execute: Execute, name: str) -> int | None:
    """The id of the oldest row of ``name``; None: there is none."""
    return execute(OLDEST, (name,))[0][0]  # type: ignore[no-any-return]


def insert_all(execute: Execute, batch: Batch, envelopes: Iterable[Envelope]) -> int:
    """Stores a row for each that needs one.  Returns how many members or channels missed it."""
    return sum(
        envelope.recipients.count(",") + 1
        for envelope in envelopes
        if envelope.is_refused or not (envelope.is_settled or insert(execute, batch, envelope))
    )


class Member(NamedTuple):
    """Members of a group: a non-local name, and their local parts, separated by commas."""

    name: str
    recipients: str
    #: When the first membership expires.
    until: float


def group_members(execute: Execute, group: str, now: float) -> list[Member]:
    """The members of ``group``, with each non-local name once."""
    return [Member(*row) for row in execute(MEMBERS, (group, now))]


def schema_version(execute: Execute) -> int:
    """A number that changes with each change of the schema, by any program."""
    return int(execute(SCHEMA_VERSION, ())[0][0])


def are_versions_kept(execute: Execute) -> bool:
    """Whether the triggers exist.  They are lost if a program rebuilds the table."""
    return bool(execute(TRIGGERS, ())[0][0] == 3)


def group_version(execute: Execute, group: str) -> int | None:
    """A number that changes with each change of the group's members; None: there is none."""
    found = execute(GROUP_VERSION, (group,))
    return found[0][0] if found else None


class FlushMark(NamedTuple):
    """The last flush.  It voids rows before this id, and other messages before this time."""

    id: int
    at: float

    def voids(self, row: int, created_at: float) -> bool:
        """Whether a message was sent before the flush.  ``row`` is 0 if it has no row."""
        return row < self.id if row else created_at < self.at


class Table(NamedTuple):
    """The state of the table."""

    #: Ids and times are valid only within one generation.  The number is higher after
    #: ``manage.py flush``, and after a process saw ids start again; 0: none has begun yet.
    generation: int = 0
    #: See `clock`.
    began_at: float = 0.0
    flushed: FlushMark = FlushMark(0, 0.0)
    last_id: int = 0

    def is_new(self, generation: int, last_id: int) -> bool:
        """Whether an id, and what was read up to it, is no longer valid."""
        return not self.generation or self.generation != generation or self.last_id < last_id


def table(execute: Execute) -> Table:
    """Reads it."""
    generation, began_at, *flushed, last_id = execute(TABLE, ())[0]
    return Table(generation, began_at, FlushMark(*flushed), last_id)


@dataclass(frozen=True, slots=True)
class Look:
    """A request for the rows of the process's own channels after its cursors."""

    now: float
    token: str
    #: The non-local names; None: there are many, so the look finds those that have rows.
    names: Collection[str] | None
    #: The id of the last row read of each name.
    cursors: Mapping[str, int]
    #: The generation of the cursors, and the highest id that the process has read in it.
    generation: int = 0
    last_id: int = 0
    #: Every row up to this id was committed before, so the look finds it if it still exists.
    committed: int = 0
    #: Whether rows are deleted as they are read, without a cursor.  This is for an in-memory
    #: database, where reading may be part of a test's transaction, whose rollback frees ids.
    deletes: bool = False


class Row(NamedTuple):
    """A row of a process-local channel.  It stays in the table until it is acknowledged."""

    id: int
    recipients: str
    is_group: bool
    data: bytes
    expires_at: float


class Looked(NamedTuple):
    """The result of a look."""

    table: Table
    #: By non-local name, in the order of ids.
    rows: dict[str, list[Row]]
    #: Whether these are all rows, and no more are waiting.
    is_all: bool = True
    #: Whether the table has another generation than the cursors.
    is_new: bool = False


def look(execute: Execute, asked: Look) -> Looked:
    """Reads the rows that wait for this process.  Waits for no lock, except with ``deletes``.

    Each statement is a separate transaction, so no read stays open.  The generation is therefore
    read last: otherwise rows of the next generation could count as rows of this one.  With
    ``deletes`` it is read first, because rows that are deleted must also be delivered.
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
    """The rows, and whether there are no more."""
    names = asked.names
    if names is None:
        ending = f"{asked.token}!"
        names = [name for (name,) in execute(NAMES, (ending, ending))]
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
            count = within(READ_BYTES, execute(SIZES, (name, cursor, count)))
        found = execute(READ, (name, cursor, count))
        if found:
            rows[name] = [
                Row(row, recipients.decode(errors="replace"), bool(is_group), data, expires_at)
                for row, recipients, is_group, data, expires_at in found
            ]
            if asked.deletes:
                execute(DELETE_READ, (name, found[-1][0]))
    return rows, is_all


def within(most: int, sizes: Iterable[tuple[int]]) -> int:
    """How many rows of these sizes fit into ``most`` bytes; at least one."""
    count = 0
    for (size,) in sizes:
        most -= size
        if most < 0 and count:
            break
        count += 1
    return max(1, count)


class Claimed(NamedTuple):
    """A row of a plain channel that this process has taken out of the table."""

    id: int
    data: bytes
    expires_at: float
    created_at: float
    #: The generation of the table that its id belongs to; 0: none had begun yet.
    generation: int = 0


def claim(
    execute: Execute,
    wanted: Mapping[str, int],
    now: float,
    left: set[str] | None = None,
    *,
    is_in_transaction: bool,
) -> dict[str, list[Claimed]]:
    """Takes up to the wanted number of rows of each of these plain channels.

    Takes the write lock only if a row waits.  Adds the channels of which more rows wait to
    ``left``.  The statement that takes a row tells it: if a later one failed, the row would be
    lost.
    """
    waiting = [name for name in wanted if execute(WAITING, (name, now))[0][0]]
    claimed = {}
    # A lone statement is a transaction.
    is_lone = is_in_transaction or sum(wanted[name] for name in waiting) < 2
    with nullcontext() if is_lone else writing(execute):
        for name in waiting:
            claimed[name], is_left = _claim(execute, name, wanted[name], now)
            if is_left and left is not None:
                left.add(name)
    return claimed


def _claim(execute: Execute, name: str, wanted: int, now: float) -> tuple[list[Claimed], bool]:
    """The rows, and whether more wait."""
    rows: list[Claimed] = []
    room = READ_BYTES
    while len(rows) < wanted:
        found = execute(CLAIM, (name, now, name, now))
        if not found:  # another process was faster
            return rows, False
        *columns, next_size = found[0]
        rows.append(Claimed(*columns))
        if next_size is None:
            return rows, False
        room -= len(rows[-1].data)
        if next_size > room:
            break
    return rows, True


@dataclass(slots=True)
class Acknowledgement:
    """What a process has read: names, with the id of the last row read of each."""

    generation: int
    read: dict[str, int]
    #: The number of these rows, and their bytes.
    rows: int = 0
    size: int = 0


def acknowledge(execute: Execute, through: Acknowledgement) -> None:
    """Deletes what was read, in a transaction, unless ids have started again since."""
    if not table(execute).is_new(through.generation, max(through.read.values())):
        for name, last in through.read.items():
            execute(DELETE_READ, (name, last))


def requeue(execute: Execute, unwanted: Iterable[tuple[str, Claimed]]) -> None:
    """Puts claimed rows back with their old ids, and so into their old places in the order.

    Does nothing if ids have started again since.
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
