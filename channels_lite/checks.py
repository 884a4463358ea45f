"""System checks: they report problems in the settings before the first message.

Always: ``channels_lite.E001`` a layer that cannot be made; ``E002`` an in-memory database
outside of tests; ``E003`` a database on a network file system; ``W001`` two layers on one database;
``W002`` a router that writes ``Event`` to another database.

With ``check --deploy``, which may read the database and never writes to it: ``W003`` missing
tables; ``W004`` a rollback journal; ``W005`` each message waits for the disk; ``W006``
ATOMIC_REQUESTS; ``W007`` CONN_MAX_AGE under ASGI; ``W008`` two copies of SQLite; ``W009`` a notify
layer that polls; ``W010`` an ``init_command`` that conflicts with the layers; ``W011`` a relay
whose engine is unavailable; ``W012`` rows of histories that are not read because of a relay;
``I001`` a SQLite version that may corrupt a database.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import channel_layers
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router
from django.db.migrations.loader import MigrationLoader
from django.utils.module_loading import import_string

from channels_lite.layers.configured import (
    database_of,
    layer_databases,
    misnamed_layers,
    our_layers,
)
from channels_lite.monitor.engine import try_out
from channels_lite.store import is_in_memory, migrate_command, refuse
from channels_lite.store.connection import Source
from channels_lite.wake.hooks import hooks

__all__ = [
    "check_databases",
    "check_file_systems",
    "check_histories",
    "check_init_command",
    "check_journal",
    "check_layers",
    "check_relay",
    "check_router",
    "check_settings",
    "check_shared",
    "check_sqlite",
    "check_tables",
]

#: For ``check --tag``.
TAG = "channels_lite"
MOUNTS = Path("/proc/self/mountinfo")
# Their locks, shared memory or both do not reach other machines (sqlite.org/wal.html).
NETWORK = {
    "9p", "afs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "lustre",
    "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs",
}  # fmt: skip


def sqlite_databases() -> list[str]:
    """The databases that hold messages.  E001 reports other values in CONFIG."""
    return [
        alias
        for alias in layer_databases()
        if alias in settings.DATABASES and connections[alias].vendor == "sqlite"
    ]


@register(TAG)
def check_layers(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E001: makes each of our layers, as Channels does."""
    faults = misnamed_layers()
    for alias in our_layers():
        try:
            channel_layers[alias]
        except (ImproperlyConfigured, TypeError) as error:
            faults[alias] = str(error)
    return [
        Error(
            fault,
            hint=f"Fix CHANNEL_LAYERS[{alias!r}] in your settings.",
            id="channels_lite.E001",
        )
        for alias, fault in faults.items()
    ]


@register(TAG)
def check_databases(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E002: each process would have its own in-memory database."""
    # To import it here would make a start longer by a tenth.  A test runner has imported it.
    tests = sys.modules.get("django.test.utils")
    if hasattr(getattr(tests, "_TestState", None), "saved_data"):
        return []  # the test runner has made it an in-memory one
    return [
        Error(
            f"Database {alias!r}, which a channel layer uses, is in memory: "
            "processes cannot receive each other's messages.",
            hint=f'Set DATABASES[{alias!r}]["NAME"] to a file.',
            id="channels_lite.E002",
        )
        for alias in sqlite_databases()
        if is_in_memory(alias)
    ]


@register(TAG)
def check_file_systems(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E003: SQLite's log needs memory that all processes share, on one machine."""
    return [
        Error(
            f"Database {alias!r}, which a channel layer uses, is on a network file system "
            f"({kind}): SQLite's log does not work there.",
            hint=f'Set DATABASES[{alias!r}]["NAME"] to a path on a local disk.',
            id="channels_lite.E003",
        )
        for alias in sqlite_databases()
        for kind in [file_system_of(Source(alias).path)]
        if kind in NETWORK
    ]


def file_system_of(path: Path) -> str:
    """The type of the file system of ``path``, by Linux's name; "" on other systems."""
    try:
        mounts = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for mount in mounts:
        point = mount.split()[4]
        # The last mount wins, because it covers those before it.
        if len(point) >= len(best) and path.is_relative_to(point):
            best, kind = point, mount.partition(" - ")[2].split()[0]
    return kind


@register(TAG)
def check_shared(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W001: one set of tables is one set of channels and groups."""
    sharing: dict[str, list[str]] = {}
    for alias, entry in our_layers().items():
        database = database_of(entry)
        if database in sqlite_databases():
            file = database if is_in_memory(database) else str(Source(database).path)
            sharing.setdefault(file, []).append(alias)
    return [
        Warning(
            f"The layers {', '.join(map(repr, layers))} keep their messages in one database, "
            f"{file}, so they share all channels and groups.",
            hint="Give each layer its own database.",
            id="channels_lite.W001",
        )
        for file, layers in sharing.items()
        if len(layers) > 1
    ]


@register(TAG)
def check_router(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W002: rows written through the models would not be where the layer reads."""
    from channels_lite.models import Event  # noqa: PLC0415 - not before the apps are ready

    databases = layer_databases()
    if not databases or router.db_for_write(Event) == databases[0]:
        return []
    return [
        Warning(
            f"Messages are in database {databases[0]!r}, but the models of channels_lite are "
            f"written to {router.db_for_write(Event)!r}.",
            hint='Add "channels_lite.router.ChannelsRouter" to DATABASE_ROUTERS.',
            id="channels_lite.W002",
        )
    ]


@register(TAG, deploy=True)
def check_tables(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W003: only with --deploy, because ``migrate`` runs checks before it makes the tables."""
    found: list[CheckMessage] = []
    for alias in sqlite_databases():
        if is_in_memory(alias):
            continue  # E002 reports it, except in tests
        try:
            fault, fix = _lack(alias)
        except (DatabaseError, OSError) as error:
            fault, fix = str(refuse(error, alias, is_reading=True).error), ""
        if fault:
            found.append(Warning(fault, hint=fix, id="channels_lite.W003"))
    return found


def _lack(alias: str) -> tuple[str, str]:
    """What is missing, and how to fix it.  A missing file is not created."""
    is_there = Source(alias).path.exists()
    loader = MigrationLoader(connections[alias] if is_there else None, ignore_no_migrations=True)
    ours = {key for key in loader.disk_migrations or {} if key[0] == "channels_lite"}
    if missing := sorted(name for _, name in ours - set(loader.applied_migrations or {})):
        fault = f"Database {alias!r} lacks migrations of channels_lite: {', '.join(missing)}."
        return fault, f"Run {migrate_command(alias)}"
    tables = {model._meta.db_table for model in apps.get_app_config("channels_lite").get_models()}
    missing = sorted(tables.difference(connections[alias].introspection.table_names()))
    if not missing:
        return "", ""
    if len(missing) < len(tables):
        fix = "They were dropped: restore a backup, or delete the file and run migrate."
    else:  # the router did not allow them while CONFIG named another database
        fix = (
            f"Run manage.py migrate channels_lite zero --fake --database={alias}, and then "
            f"manage.py migrate channels_lite --database={alias}"
        )
    lacks = f"lacks the tables {', '.join(missing)}"
    return f"Database {alias!r} is recorded as migrated, but {lacks}.", fix


@register(TAG, deploy=True)
def check_journal(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W004 and W005: settings of Django's connections, where our layers set nothing more."""
    from channels_lite.layers.core import SQLiteChannelLayer  # noqa: PLC0415 - the same

    found: list[CheckMessage] = []
    for alias in sqlite_databases():
        commands = pragmas(alias)
        is_all_djangos = all(
            issubclass(import_string(entry["BACKEND"]), SQLiteChannelLayer)
            for entry in our_layers().values()
            if database_of(entry) == alias
        )
        options = connections.settings[alias].get("OPTIONS") or {}
        is_ours_to_set = options.get("init_command") is None
        is_set = commands.get("journal_mode") == "wal"
        if not is_set and not is_ours_to_set and not is_wal(alias):
            found.append(
                Warning(
                    f"Database {alias!r} has a rollback journal: readers wait for writers.",
                    hint='Add PRAGMA journal_mode=WAL to its OPTIONS["init_command"] (Django 5.1); '
                    "or run it once: the setting stays in the file.",
                    id="channels_lite.W004",
                )
            )
        if is_all_djangos and "synchronous" not in commands:
            found.append(
                Warning(
                    f"Each message in database {alias!r} waits for the disk.",
                    hint='Add PRAGMA synchronous=NORMAL to its OPTIONS["init_command"] (Django '
                    "5.1): in WAL mode, it loses more only at a power failure. Or use another "
                    "layer.",
                    id="channels_lite.W005",
                )
            )
    return found


PRAGMA = re.compile(r"""\bpragma\s+(?:\w+\s*\.\s*)?(\w+)\s*[=(]\s*['"]?(\w+)""", re.IGNORECASE)


def pragmas(alias: str) -> dict[str, str]:
    """The settings in ``OPTIONS["init_command"]``, in lower case; the last one of a name wins."""
    options = connections.settings[alias].get("OPTIONS") or {}
    found = PRAGMA.findall(str(options.get("init_command", "")))
    return {name.lower(): value.lower() for name, value in found}


def is_wal(alias: str) -> bool:
    """Whether the file's header says so.  True if there is no file, so nothing is reported."""
    try:
        if is_in_memory(alias) or not Source(alias).path.exists():
            return True
        with connections[alias].cursor() as cursor:
            cursor.execute("PRAGMA journal_mode")
            return bool(cursor.fetchone() == ("wal",))
    except (DatabaseError, OSError):
        return True  # W003 reports it


@register(TAG, deploy=True)
def check_init_command(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W010: settings of a new connection that block other connections."""
    found: list[CheckMessage] = []
    for alias in sqlite_databases():
        commands = pragmas(alias)
        journal = commands.get("journal_mode", "wal")
        if commands.get("locking_mode") == "exclusive":
            what = "locking_mode=EXCLUSIVE: one connection locks out all others"
        elif journal != "wal" and is_wal(alias):  # else W004 reports it
            what = f"journal_mode={journal.upper()}: readers will wait for writers"
        else:
            continue
        found.append(
            Warning(
                f'OPTIONS["init_command"] of database {alias!r} sets {what}.',
                hint="Remove that PRAGMA.",
                id="channels_lite.W010",
            )
        )
    return found


@register(TAG, deploy=True)
def check_settings(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W006 and W007: settings of the database with effects on the channels."""
    found: list[CheckMessage] = []
    for alias in sqlite_databases():
        options = connections.settings[alias]
        if options.get("ATOMIC_REQUESTS"):
            found.append(
                Warning(
                    f"With ATOMIC_REQUESTS of database {alias!r}, messages that a view sends are "
                    "delivered when it returns, and discarded if it fails.",
                    hint="Give the channels a separate database. If you want this, silence the "
                    "check.",
                    id="channels_lite.W006",
                )
            )
        if options.get("CONN_MAX_AGE", 0) != 0 and getattr(settings, "ASGI_APPLICATION", None):
            found.append(
                Warning(
                    f"CONN_MAX_AGE of database {alias!r} keeps connections open in threads that "
                    "start and end under ASGI.",
                    hint="Set it to 0, as Django's documentation recommends for ASGI.",
                    id="channels_lite.W007",
                )
            )
    return found


# Packages that bring their own SQLite.
COPIES = ["apsw", "pysqlcipher3", "pysqlite3", "sqlcipher3"]


@register(TAG, deploy=True)
def check_copies(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W008: a second SQLite in the process, which does not know the locks of the first.

    If it opens and closes the same file, those locks are lost
    (sqlite.org/howtocorrupt.html 2.2.1).
    """
    # A project may have replaced Python's SQLite by one of these; then there is still one copy.
    loaded = [name for name in COPIES if name in sys.modules and sqlite3.__name__ != name]
    if not loaded or not layer_databases():
        return []
    return [
        Warning(
            f"{loaded[0]} is loaded, and brings a second SQLite into this process. A file that "
            "both open can be corrupted.",
            hint="Never open the channels' database with it. If you do not, silence this check.",
            id="channels_lite.W008",
        )
    ]


@register(TAG, deploy=True)
def check_wake_up(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W009: the extension is missing, or failed its test."""
    from channels_lite.layers.notify import NotifyChannelLayer  # noqa: PLC0415 - the same

    backends = [import_string(entry["BACKEND"]) for entry in our_layers().values()]
    if not hooks.reason or not any(issubclass(each, NotifyChannelLayer) for each in backends):
        return []
    return [
        Warning(
            f"The notify layer polls, and messages take up to 0.1 s: {hooks.reason}",
            hint="See docs/troubleshooting.md, The notify layer polls.",
            id="channels_lite.W009",
        )
    ]


@register(TAG, deploy=True)
def check_relay(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W011: tries each layer's relay once."""
    found: list[CheckMessage] = []
    for alias in our_layers():
        try:
            config = channel_layers[alias].config
            tried = None if config.relay is None else async_to_sync(try_out)(config)
        except (ImproperlyConfigured, TypeError):
            continue  # E001 says so
        if tried is not None and tried.fault:
            found.append(
                Warning(
                    f"The relay of layer {alias!r}, {tried.url}, does not work: {tried.fault}",
                    hint="Fix it, or start the engine. Until then, no message reaches another "
                    "machine, and plain channels and groups with a history do not work.",
                    id="channels_lite.W011",
                )
            )
    return found


@register(TAG, deploy=True)
def check_histories(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W012: rows of before the relay, or of code that inserts them."""
    found: list[CheckMessage] = []
    for alias in our_layers():
        try:
            config = channel_layers[alias].config
            if config.relay is None or not config.group_history or is_in_memory(config.database):
                continue
            if not Source(config.database).path.exists():
                continue  # a connection would create it
            with connections[config.database].cursor() as cursor:
                cursor.execute("SELECT count(*) FROM channels_lite_groupmessage")
                [count] = cursor.fetchone()
        except (ImproperlyConfigured, TypeError, DatabaseError, OSError):
            continue  # E001 and W003 say so
        if count:
            found.append(
                Warning(
                    f"The database {config.database!r} has {count} messages of histories, which "
                    f"no process reads: with a relay, the histories of layer {alias!r} are in its "
                    "engine.",
                    hint="Send with group_send(), not with GroupMessage.objects.create() or SQL. "
                    "Rows of before the relay can be deleted in the admin.",
                    id="channels_lite.W012",
                )
            )
    return found


@register(TAG, deploy=True)
def check_sqlite(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """I001, with ``--deploy``: two checkpoints at the same time may corrupt the file.

    The bug is described at sqlite.org/wal.html#walresetbug.
    The notify layer elects one process for checkpoints; Django's own connections do not.
    """
    version = sqlite3.sqlite_version_info
    if not layer_databases() or version >= (3, 51, 3):
        return []
    return [
        Info(
            f"SQLite {sqlite3.sqlite_version} has a rare bug: if two connections reset the log of "
            "a database at the same time, the database can be corrupted.",
            hint="3.51.3 fixes it. The notify layer avoids it if the channels have a separate "
            "database.",
            id="channels_lite.I001",
        )
    ]
