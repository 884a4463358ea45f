"""System checks: what is wrong with the settings, before the first message.

Always: ``channels_lite.E001`` a layer that cannot be made; ``E002`` an in-memory database
outside of tests; ``E003`` a database on a network file system; ``W001`` two layers on one database;
``W002`` a router that writes ``Event`` elsewhere.

With ``check --deploy``, which may look into the database and never writes to it: ``W003`` missing
tables; ``W004`` a rollback journal; ``W005`` a disk that each message waits for; ``W006``
ATOMIC_REQUESTS; ``W007`` CONN_MAX_AGE under ASGI; ``W008`` two copies of SQLite; ``W009`` a notify
layer that polls; ``W010`` an ``init_command`` that works against the layers; ``W011`` a relay whose
engine is away; ``I001`` a SQLite that may corrupt a database.
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
from django.test.utils import _TestState
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
    """Those that hold messages; what else CONFIG may name is for E001."""
    return [
        alias
        for alias in layer_databases()
        if alias in settings.DATABASES and connections[alias].vendor == "sqlite"
    ]


@register(TAG)
def check_layers(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E001: makes each layer of ours, as Channels will."""
    faults = misnamed_layers()
    for alias in our_layers():
        try:
            channel_layers[alias]
        except (ImproperlyConfigured, TypeError) as error:
            faults[alias] = str(error)
    return [
        Error(
            fault,
            hint=f"Mend CHANNEL_LAYERS[{alias!r}] in your settings.",
            id="channels_lite.E001",
        )
        for alias, fault in faults.items()
    ]


@register(TAG)
def check_databases(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E002: each process would have an in-memory database of its own."""
    if hasattr(_TestState, "saved_data"):  # Django's tests run, and have made it so
        return []
    return [
        Error(
            f"Database {alias!r}, which a channel layer uses, is in memory: "
            "processes would not hear each other.",
            hint=f'Give DATABASES[{alias!r}]["NAME"] a file.',
            id="channels_lite.E002",
        )
        for alias in sqlite_databases()
        if is_in_memory(alias)
    ]


@register(TAG)
def check_file_systems(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E003: SQLite's log needs memory that all processes share, so one machine."""
    return [
        Error(
            f"Database {alias!r}, which a channel layer uses, is on a network file system "
            f"({kind}): SQLite's log does not work there.",
            hint=f'Give DATABASES[{alias!r}]["NAME"] a path on a local disk.',
            id="channels_lite.E003",
        )
        for alias in sqlite_databases()
        for kind in [file_system_of(Source(alias).path)]
        if kind in NETWORK
    ]


def file_system_of(path: Path) -> str:
    """The type of file system it is on, as Linux has it; "" elsewhere."""
    try:
        mounts = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for mount in mounts:
        point = mount.split()[4]
        # The last one wins, for it covers those before it.
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
            f"{file}: a group of one is a group of the other.",
            hint="Give each layer a database of its own.",
            id="channels_lite.W001",
        )
        for file, layers in sharing.items()
        if len(layers) > 1
    ]


@register(TAG)
def check_router(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W002: what is written by the models would not be where the layer looks."""
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
    """W003: not without --deploy, for ``migrate`` runs the others before it makes the tables."""
    found: list[CheckMessage] = []
    for alias in sqlite_databases():
        if is_in_memory(alias):
            continue  # E002, but in tests
        try:
            fault, mend = _lack(alias)
        except (DatabaseError, OSError) as error:
            fault, mend = str(refuse(error, alias, is_reading=True).error), "As it says."
        if fault:
            found.append(Warning(fault, hint=mend, id="channels_lite.W003"))
    return found


def _lack(alias: str) -> tuple[str, str]:
    """What is not there, and what brings it; a file that is not there is not made."""
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
        mend = "Somebody dropped them: put a backup in its place, or delete the file and migrate."
    else:  # the router kept them out as long as CONFIG named another database
        mend = (
            f"Run manage.py migrate channels_lite zero --fake --database={alias}, and then "
            f"manage.py migrate channels_lite --database={alias}"
        )
    lacks = f"lacks the tables {', '.join(missing)}"
    return f"Database {alias!r} is noted as migrated, and {lacks}.", mend


@register(TAG, deploy=True)
def check_journal(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W004 and W005: what Django's connections are set to, where nothing of ours sets more."""
    from channels_lite.layers.core import SQLiteChannelLayer  # noqa: PLC0415 - the same

    found: list[CheckMessage] = []
    for alias in sqlite_databases():
        commands = pragmas(alias)
        is_all_djangos = all(
            issubclass(import_string(entry["BACKEND"]), SQLiteChannelLayer)
            for entry in our_layers().values()
            if database_of(entry) == alias
        )
        is_ours_to_set = not commands and not is_all_djangos
        is_set = commands.get("journal_mode") == "wal"
        if not is_set and not is_ours_to_set and not is_wal(alias):
            found.append(
                Warning(
                    f"Database {alias!r} has a rollback journal: who reads waits for who writes.",
                    hint='Add PRAGMA journal_mode=WAL to its OPTIONS["init_command"] (Django 5.1); '
                    "or run it once, for the file keeps it.",
                    id="channels_lite.W004",
                )
            )
        if is_all_djangos and "synchronous" not in commands:
            found.append(
                Warning(
                    f"Each message in database {alias!r} waits for the disk.",
                    hint='Add PRAGMA synchronous=NORMAL to its OPTIONS["init_command"] (Django '
                    "5.1): in WAL mode only a power cut loses more. Or choose another layer.",
                    id="channels_lite.W005",
                )
            )
    return found


PRAGMA = re.compile(r"""\bpragma\s+(?:\w+\s*\.\s*)?(\w+)\s*[=(]\s*['"]?(\w+)""", re.IGNORECASE)


def pragmas(alias: str) -> dict[str, str]:
    """What ``OPTIONS["init_command"]`` sets, in lower case; the last word counts."""
    options = connections.settings[alias].get("OPTIONS") or {}
    found = PRAGMA.findall(str(options.get("init_command", "")))
    return {name.lower(): value.lower() for name, value in found}


def is_wal(alias: str) -> bool:
    """Whether the file's header says so; True for none, which says nothing."""
    try:
        if is_in_memory(alias) or not Source(alias).path.exists():
            return True
        with connections[alias].cursor() as cursor:
            cursor.execute("PRAGMA journal_mode")
            return bool(cursor.fetchone() == ("wal",))
    except (DatabaseError, OSError):
        return True  # W003 says so


@register(TAG, deploy=True)
def check_init_command(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W010: what a new connection sets that keeps the others out."""
    found: list[CheckMessage] = []
    for alias in sqlite_databases():
        commands = pragmas(alias)
        journal = commands.get("journal_mode", "wal")
        if commands.get("locking_mode") == "exclusive":
            what = "locking_mode=EXCLUSIVE: one connection keeps all others out"
        elif journal != "wal" and is_wal(alias):  # else W004 says so
            what = f"journal_mode={journal.upper()}: who reads will wait for who writes"
        else:
            continue
        found.append(
            Warning(
                f'OPTIONS["init_command"] of database {alias!r} sets {what}.',
                hint="Take that PRAGMA out of it.",
                id="channels_lite.W010",
            )
        )
    return found


@register(TAG, deploy=True)
def check_settings(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W006 and W007: settings of the database that mean more than they say."""
    found: list[CheckMessage] = []
    for alias in sqlite_databases():
        options = connections.settings[alias]
        if options.get("ATOMIC_REQUESTS"):
            found.append(
                Warning(
                    f"ATOMIC_REQUESTS of database {alias!r} holds back what a view sends until it "
                    "returns, and drops it if it fails.",
                    hint="Give the messages a database of their own; or silence this, if it is "
                    "what you want.",
                    id="channels_lite.W006",
                )
            )
        if options.get("CONN_MAX_AGE", 0) != 0 and getattr(settings, "ASGI_APPLICATION", None):
            found.append(
                Warning(
                    f"CONN_MAX_AGE of database {alias!r} keeps connections open in threads that, "
                    "under ASGI, come and go.",
                    hint="Set it to 0, as Django's documentation says for ASGI.",
                    id="channels_lite.W007",
                )
            )
    return found


# Packages with a SQLite of their own.
COPIES = ["apsw", "pysqlcipher3", "pysqlite3", "sqlcipher3"]


@register(TAG, deploy=True)
def check_copies(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W008: a second SQLite in the process, which knows nothing of the first one's locks.

    If it opens the same file and closes it, those are gone (sqlite.org/howtocorrupt.html 2.2.1).
    """
    # A project may have put one of them in the place of Python's; then there is one copy still.
    loaded = [name for name in COPIES if name in sys.modules and sqlite3.__name__ != name]
    if not loaded or not layer_databases():
        return []
    return [
        Warning(
            f"{loaded[0]} is loaded, with a SQLite of its own beside Python's. A file that both "
            "open in one process can be corrupted.",
            hint="Never open the channels' database with it; if you do not, silence this.",
            id="channels_lite.W008",
        )
    ]


@register(TAG, deploy=True)
def check_wake_up(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """W009: the extension is not there, or failed its test."""
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
    """W011: what each layer's relay connects to, tried once."""
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
                    hint="Mend it, or start the engine. Until then what stays on this machine goes "
                    "on, and nothing reaches another.",
                    id="channels_lite.W011",
                )
            )
    return found


@register(TAG, deploy=True)
def check_sqlite(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """I001, with ``--deploy``: two checkpoints at once may corrupt the file.

    The bug is described at sqlite.org/wal.html#walresetbug.
    The notify layer elects one process for them; Django's own connections do not.
    """
    version = sqlite3.sqlite_version_info
    if not layer_databases() or version >= (3, 51, 3):
        return []
    return [
        Info(
            f"SQLite {sqlite3.sqlite_version} has a rare bug that can corrupt a database whose "
            "log two connections reset at the same time.",
            hint="3.51.3 mends it. The notify layer keeps clear of it where messages have a "
            "database of their own.",
            id="channels_lite.I001",
        )
    ]
