"""System checks: what is wrong with the settings, before the first message.

``channels_lite.E001`` a CONFIG that the layer would refuse; ``E002`` an in-memory database outside
of tests; ``E003`` a database on a network file system; ``I001`` a SQLite that may corrupt one.
Missing tables are no check's matter, for ``migrate`` runs the checks before it makes them: the
first message raises ``ImproperlyConfigured``.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from channels.layers import channel_layers
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test.utils import _TestState

from channels_lite.config import layer_databases, our_layers
from channels_lite.store.connection import Source

__all__ = ["check_databases", "check_file_systems", "check_layers", "check_sqlite"]

MOUNTS = Path("/proc/self/mountinfo")
# Their locks, shared memory or both do not reach other machines (sqlite.org/wal.html).
NETWORK = {
    "9p", "afs", "ceph", "cifs", "coda", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "lustre",
    "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs",
}  # fmt: skip


@register()
def check_layers(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E001: makes each layer of ours, as Channels will."""
    errors: list[CheckMessage] = []
    for alias in our_layers():
        try:
            channel_layers[alias]
        except (ImproperlyConfigured, TypeError) as error:
            hint = f"Mend CHANNEL_LAYERS[{alias!r}] in your settings."
            errors.append(Error(str(error), hint=hint, id="channels_lite.E001"))
    return errors


@register()
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
        for alias in layer_databases()
        if alias in settings.DATABASES
        and connections[alias].vendor == "sqlite"
        and connections[alias].is_in_memory_db()  # type: ignore[attr-defined]
    ]


@register()
def check_file_systems(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E003: SQLite's log needs memory that all processes share, so one machine."""
    return [
        Error(
            f"Database {alias!r}, which a channel layer uses, is on a network file system "
            f"({kind}): SQLite's log does not work there.",
            hint=f'Give DATABASES[{alias!r}]["NAME"] a path on a local disk.',
            id="channels_lite.E003",
        )
        for alias in layer_databases()
        if alias in settings.DATABASES and connections[alias].vendor == "sqlite"
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


@register(deploy=True)
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
