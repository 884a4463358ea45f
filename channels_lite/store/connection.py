"""Opening a database the way its alias in ``DATABASES`` says, without Django's connection."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from django.db import connections

__all__ = ["Source"]

logger = logging.getLogger(__name__)

# Where OPTIONS["init_command"] is not set; those of channels-lite 0.4.0, but for mmap_size: a file
# that somebody cuts, or an error of the disk, would kill the process (sqlite.org/mmap.html).
# journal_mode comes first: it is the one that a foreign lock can refuse.
PRAGMAS = (
    "PRAGMA synchronous = NORMAL",
    "PRAGMA cache_size = 10000",
    "PRAGMA temp_store = MEMORY",
)
DEFAULT_TIMEOUT = 30.0
# Of PRAGMA busy_timeout, which is a C int.
MAX_MILLISECONDS = 2**31 - 1

# Connections of a parent process, kept for ever: closing one in the child would drop the locks
# that the parent holds on the same file (sqlite.org/howtocorrupt.html 2.6).
_abandoned: list[Any] = []


def _path_of(name: str) -> str:
    """The path in a ``NAME``, read as SQLite reads its URIs (sqlite.org/uri.html)."""
    if not name.startswith("file:"):
        return name
    path = name[len("file:") :].partition("#")[0].partition("?")[0]
    if path.startswith("//"):  # an authority, which is "" or "localhost"
        path = "/" + path[2:].partition("/")[2]
    return os.fsdecode(unquote_to_bytes(path))


class Source:
    """Where an alias's database is, and how to connect to it.

    Asked at each use, not at construction: Django's test runner renames databases later.
    """

    abandoned = _abandoned

    def __init__(self, alias: str) -> None:
        self.alias = alias
        # The very dict that Django's test runner writes the test database's name into.
        self._settings: dict[str, Any] = connections.settings[alias]
        self._path_of: tuple[object, Path, bytes] = (None, Path(), b"")
        self._file: tuple[int, int] | None = None
        #: What ``PRAGMA journal_mode`` last said, as "wal" or "delete"; "": nothing was opened yet.
        self.journal = ""

    @property
    def _options(self) -> dict[str, Any]:
        return dict(self._settings.get("OPTIONS") or {})

    def _resolved(self) -> tuple[object, Path, bytes]:
        name = self._settings["NAME"]
        if self._path_of[0] is not name:
            path = Path(_path_of(str(name))).resolve()
            self._path_of = (name, path, os.fsencode(f"{path}-wake"))
        return self._path_of

    @property
    def path(self) -> Path:
        """The database file; with symbolic links resolved, as SQLite does for its ``-wal``."""
        return self._resolved()[1]

    @property
    def log(self) -> Path:
        """The write-ahead log, if there is one."""
        return Path(f"{self.path}-wal")

    @property
    def sidecar(self) -> Path:
        """The directory of FIFOs beside the database."""
        return Path(os.fsdecode(self.sidecar_bytes))

    @property
    def sidecar_bytes(self) -> bytes:
        """The same, as C takes it."""
        return self._resolved()[2]

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def opened(self) -> None:
        """Takes note of which file it is."""
        self._file = self._file or self._identity()

    def is_same(self) -> bool:
        """Whether the file that was `opened` is there still."""
        return self._file is not None and self._file == self._identity()

    def is_replaced(self) -> bool:
        """Whether there is another file than the one that was `opened`; says so, once for each.

        As long as it is only gone nothing can be done: who has it open goes on with it.
        """
        found = self._identity()
        if None in (self._file, found) or found == self._file:
            return False
        self._file = None
        logger.warning("database %r was replaced while in use: opening it anew", self.alias)
        return True

    @property
    def timeout(self) -> float:
        """Seconds to wait for a lock: ``OPTIONS["timeout"]``, or 30."""
        return float(self._options.get("timeout", DEFAULT_TIMEOUT))

    def parameters(self, timeout: float | None = None) -> dict[str, Any]:
        """The arguments of ``sqlite3.connect``; for use by any thread, and in autocommit."""
        name = str(self._settings["NAME"])
        ours = {"init_command", "transaction_mode", "isolation_level", "check_same_thread"}
        options = {key: value for key, value in self._options.items() if key not in ours}
        return options | {
            "database": name,
            "uri": name.startswith("file:") or options.get("uri", False),
            "timeout": self.timeout if timeout is None else timeout,
            "isolation_level": None,
            "check_same_thread": False,
        }

    def connect(
        self, *, timeout: float | None = None, checkpoints: bool = True
    ) -> sqlite3.Connection:
        """A new connection, set up.  Raises ``sqlite3.Error``.

        Without ``checkpoints`` no commit moves the log into the database.
        """
        connection: sqlite3.Connection = sqlite3.connect(**self.parameters(timeout))
        try:
            self.set_up(connection, timeout)
            if not checkpoints:
                connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def set_up(self, connection: sqlite3.Connection, timeout: float | None = None) -> None:
        """Runs ``OPTIONS["init_command"]``, or sets WAL and the pragmas above.

        The busy time-out is ``timeout`` whatever that command says: it may be a loop that waits.
        """
        self.opened()
        commands = self._options.get("init_command")
        if commands is not None:
            seconds = self.timeout if timeout is None else timeout
            busy_timeout = f"PRAGMA busy_timeout = {min(int(1000 * seconds), MAX_MILLISECONDS)}"
            for command in str(commands).split(";"):
                connection.execute(command).fetchall()
                connection.execute(busy_timeout).fetchall()
            self.read_journal(connection.execute)
            return
        self.read_journal(connection.execute)
        # Read first: setting it, even to what it is, asks for locks that another may hold.
        if self.journal != "wal":
            [(self.journal,)] = connection.execute("PRAGMA journal_mode = WAL")
        for command in PRAGMAS:
            connection.execute(command).fetchall()

    def read_journal(self, execute: Callable[[str, Sequence[Any]], Iterable[Any]]) -> None:
        """Asks again: somebody may have given the database a log, which the last read has met."""
        [(self.journal,)] = execute("PRAGMA journal_mode", ())
