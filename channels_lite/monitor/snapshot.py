"""A snapshot of waiting messages and of processes, for ``channels_lite status`` and the live page.

It only reads: the database through a separate connection that can neither write nor create a file,
and the names in the sidecar directory.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from channels_lite.clock import boot_id, ticks
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.monitor.probe import PREFIX
from channels_lite.names import FRAMES, FULL, REPORT
from channels_lite.relay import settings_of
from channels_lite.relay.node import known_name
from channels_lite.store import is_in_memory, migrate_command, refuse
from channels_lite.store.connection import Source
from channels_lite.wake.fifo import is_stale, report_of

__all__ = [
    "Group",
    "Process",
    "Relay",
    "RememberingGroup",
    "Snapshot",
    "WaitingChannel",
    "connect",
    "processes_of",
    "require_file",
    "take",
]

# Seconds to wait for a lock: a person is waiting for the result.
TIMEOUT = 2.0
#: Channels and groups that are listed, the fullest first.  The rest is only in the totals.
LIMIT = 50

CHANNELS = """
    SELECT channel_name, n, first, added, sum(n) OVER () FROM
        (SELECT channel_name, count(*) AS n, min(id) AS first, sum(id > ?) AS added
         FROM channels_lite_event WHERE expires_at + 0.0 > ? GROUP BY 1)
    ORDER BY n DESC LIMIT ?
"""
ROWS = "SELECT count(*) FROM channels_lite_event"
GROUPS = """
    SELECT group_name, n, sum(n) OVER (), count(*) OVER () FROM
        (SELECT group_name, count(*) AS n FROM channels_lite_groupmembership
         WHERE expires_at + 0.0 > ? GROUP BY 1)
    ORDER BY n DESC LIMIT ?
"""
HISTORIES = """
    SELECT group_name, n, first, last, sum(n) OVER () FROM
        (SELECT group_name, count(*) AS n, min(id) AS first, max(id) AS last
         FROM channels_lite_groupmessage GROUP BY 1)
    ORDER BY n DESC LIMIT ?
"""
KEPT_SINCE = "SELECT coalesce(created_at + 0.0, 0) FROM channels_lite_groupmessage WHERE id = ?"
CREATED_AT = "SELECT created_at + 0.0 FROM channels_lite_event WHERE id = ?"
LAST_ID = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'channels_lite_event'"
BOOT = "SELECT boot_id, began_at FROM channels_lite_boot"


@dataclass(frozen=True, slots=True)
class WaitingChannel:
    """A plain channel, or all process-local channels of a process, with waiting rows."""

    name: str
    waiting: int
    #: Seconds that the first of them has waited.
    oldest: float
    #: The number of them that arrived after the rows of the earlier snapshot, see `take`.
    added: int


@dataclass(frozen=True, slots=True)
class Group:
    """A group, and its number of members; for a while it includes those of killed processes."""

    name: str
    members: int


@dataclass(frozen=True, slots=True)
class RememberingGroup:
    """A group whose history has messages."""

    name: str
    messages: int
    #: Seconds since the first of them was sent, and since the last.
    oldest: float
    newest: float


@dataclass(frozen=True, slots=True)
class Relay:
    """A process's report of its connection to the engine: see `wake.fifo.RelayReport`."""

    engine: str
    reason: str
    round_trip: float
    groups: int
    sent: int
    received: int
    missed: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process that uses a layer, or used one and was killed."""

    token: str
    is_alive: bool
    #: Known on Linux; None elsewhere, or for the process of another user.
    pid: int | None
    #: Plain channels that it listens on.
    channels: list[str]
    #: The number of messages that it has received, the recent number per second, and the number of
    #: messages that full channels refused, or members of groups missed.
    received: int
    rate: float
    full: int
    #: Seconds since it reported these figures; None: it has reported none.
    age: float | None
    #: Its connection to the engine, if it has reported one.
    relay: Relay | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of one layer.

    Messages that are handed over without a row count only in `Process.received`, because they never
    wait in the table.
    """

    database: str
    path: str
    #: Seconds of a monotonic clock.
    at: float
    #: Rows that wait, rows that have expired, and all rows written since the table was made.
    waiting: int
    expired: int
    stored: int
    channels: list[WaitingChannel]
    memberships: int
    group_count: int
    groups: list[Group]
    #: Messages in histories, and the groups with most of them.
    remembered: int
    histories: list[RememberingGroup]
    processes: list[Process]
    #: Bytes of the database, of its log, and of the database's pages that are free.
    size: int
    log_size: int
    free: int
    journal_mode: str
    #: The name of this node, and the relay's URL; "" if there is none.
    node: str = ""
    relay: str = ""
    #: Whether histories are there, and so not in the database.
    is_engine_remembering: bool = False


def take(layer: BaseSQLiteChannelLayer, after: int = 0) -> Snapshot:
    """A snapshot of the layer's database, and of the processes that use it.

    ``after`` is ``stored`` of an earlier snapshot: `WaitingChannel.added` counts from there.
    Raises ``StoreUnavailable``, or ``ImproperlyConfigured`` if there are no tables.
    """
    if is_in_memory(layer.database):
        raise ImproperlyConfigured(
            f"database {layer.database!r} is in memory, and cannot be read from outside"
        )
    source = Source(layer.database)
    try:
        require_file(source)
        with closing(connect(source)) as connection:
            return _with_relay(layer, _picture(source, connection, after))
    except (sqlite3.Error, OSError) as error:
        refuse(error, layer.database, is_reading=True).result()
        raise


def _with_relay(layer: BaseSQLiteChannelLayer, taken: Snapshot) -> Snapshot:
    config = layer.config
    if config.relay is None:
        return taken
    shown = settings_of("", config.relay, config.relay_options, 1, 1).shown
    taken = replace(taken, node=known_name(Path(taken.path)), relay=shown)
    # Rows of before the relay are not read any more.
    return (
        replace(taken, is_engine_remembering=True, remembered=0, histories=[])
        if config.group_history
        else taken
    )


def require_file(source: Source) -> None:
    """Raises ``ImproperlyConfigured`` if there is no file yet; a connection would create it."""
    if source.path.exists():
        return
    if source.path.parent.is_dir():
        fault = f"has no file {source.path} yet: run {migrate_command(source.alias)}"
    else:
        fault = f"needs the directory {source.path.parent}, which does not exist: create it"
    raise ImproperlyConfigured(f"database {source.alias!r} {fault}")


def connect(source: Source) -> sqlite3.Connection:
    """A connection that cannot write, and does not wait for long."""
    # Not mode=ro, which leaves a -wal and a -shm behind if there were none.
    uri = f"{source.path.as_uri()}?mode=rw"
    timeout = min(source.timeout, TIMEOUT)
    connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _picture(source: Source, connection: sqlite3.Connection, after: int) -> Snapshot:
    def ask(sql: str, *parameters: Any) -> list[Any]:
        return connection.execute(sql, parameters).fetchall()

    def size_of(suffix: str) -> int:
        with suppress(FileNotFoundError):
            return source.path.with_name(source.path.name + suffix).stat().st_size
        return 0

    connection.execute("BEGIN")
    now = _now(ask(BOOT))
    channels, groups = ask(CHANNELS, after, now, LIMIT), ask(GROUPS, now, LIMIT)
    histories = ask(HISTORIES, LIMIT)
    waiting = channels[0][4] if channels else 0

    def age(row: int) -> float:
        return max(0.0, now - float(ask(KEPT_SINCE, row)[0][0]))

    return Snapshot(
        database=source.alias,
        path=str(source.path),
        at=time.monotonic(),
        waiting=waiting,
        expired=ask(ROWS)[0][0] - waiting,
        stored=ask(LAST_ID)[0][0],
        channels=[
            WaitingChannel(name, count, max(0.0, now - ask(CREATED_AT, first)[0][0]), added)
            for name, count, first, added, _all in channels
        ],
        memberships=groups[0][2] if groups else 0,
        group_count=groups[0][3] if groups else 0,
        groups=[Group(name, count) for name, count, *_ in groups],
        remembered=histories[0][4] if histories else 0,
        histories=[
            RememberingGroup(name, count, age(first), age(last))
            for name, count, first, last, _all in histories
        ],
        processes=processes_of(source.sidecar),
        size=size_of(""),
        log_size=size_of("-wal"),
        free=ask("PRAGMA freelist_count")[0][0] * ask("PRAGMA page_size")[0][0],
        journal_mode=ask("PRAGMA journal_mode")[0][0],
    )


def _now(boot: list[tuple[str, float]]) -> float:
    """By the clock of the layers, see `channels_lite.clock`."""
    if boot and boot[0][0] == boot_id():
        return boot[0][1] + ticks()
    return time.time()


def processes_of(sidecar: Path) -> list[Process]:
    """The processes that have a name in the sidecar directory."""
    try:
        paths = sorted(sidecar.iterdir())
    except (FileNotFoundError, PermissionError):
        return []
    listening: dict[str, list[str]] = {}
    for directory in paths:
        if directory.name.startswith("@"):
            with suppress(FileNotFoundError, NotADirectoryError):
                channel = directory.name[1:]
                for path in directory.iterdir() if not channel.startswith(PREFIX) else ():
                    listening.setdefault(path.name, []).append(channel)
    pids, now = _pids(sidecar), time.monotonic()
    found = []
    for path in paths:
        if path.name[0] not in ".@" and path.suffix not in (FRAMES, FULL, REPORT):
            token, is_alive, report = path.name, not is_stale(path), report_of(path)
            rate = report.rate if is_alive and now < report.until else 0.0
            age = now - report.at if report.at else None
            relay = None if report.relay is None else Relay(*msgspec.structs.astuple(report.relay))
            told = report.received, rate, report.full, age, relay
            found.append(Process(token, is_alive, pids.get(token), listening.get(token, []), *told))
    return found


def _pids(sidecar: Path) -> dict[str, int]:
    """Which process has which FIFO open, from Linux's /proc."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):  # it has just ended, or belongs to another user
            for fd in folder.iterdir():
                with suppress(FileNotFoundError):  # as the descriptor that lists our own
                    file = fd.readlink()
                    if file.parent == sidecar:
                        found[file.name] = int(folder.parent.name)
    return found
