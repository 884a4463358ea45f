"""Opens a database with the settings of its alias in ``DATABASES``, without Django's connection."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from django.db import connections

try:
    import fcntl
except ImportError:  # Windows, which has no fork either
    fcntl = None  # type: ignore[assignment]

__all__ = ["Source"]

logger = logging.getLogger(__name__)

# Used if OPTIONS["init_command"] is not set.  They are those of channels-lite 0.4.0 without
# mmap_size: with it, a truncated file or a disk error would kill the process
# (sqlite.org/mmap.html).  journal_mode comes first, because another connection's lock can refuse
# it.
PRAGMAS = (
    "PRAGMA synchronous = NORMAL",
    "PRAGMA cache_size = 10000",
    "PRAGMA temp_store = MEMORY",
)
DEFAULT_TIMEOUT = 30.0
# The maximum of PRAGMA busy_timeout, which is a C int.
MAX_MILLISECONDS = 2**31 - 1

# What an open connection in WAL mode has locked, in each file: the first byte, and how many
# (SHARED_FIRST and SHARED_SIZE in SQLite's os.h, UNIX_SHM_DMS in its os_unix.c).
LOCKS = (("", 0x40000002, 510), ("-shm", 128, 1))

# Connections of a parent process that were in use at the fork.  They are kept forever, because
# closing one could wait forever for a thread that is gone, or undo what the parent has begun.
_abandoned: list[Any] = []


def _path_of(name: str) -> str:
    """The path in a ``NAME``, parsed as SQLite parses its URIs (sqlite.org/uri.html)."""
    if not name.startswith("file:"):
        return name
    path = name[len("file:") :].partition("#")[0].partition("?")[0]
    if path.startswith("//"):  # an authority, which is "" or "localhost"
        path = "/" + path[2:].partition("/")[2]
    return os.fsdecode(unquote_to_bytes(path))


class Source:
    """The location of an alias's database, and how to connect to it.

    Settings are read at each use, not at construction, because Django's test runner renames
    databases later.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        # The dict into which Django's test runner writes the name of the test database.
        self._settings: dict[str, Any] = connections.settings[alias]
        self._path_of: tuple[object, Path, bytes] = (None, Path(), b"")
        self._file: tuple[int, int] | None = None
        #: The last result of ``PRAGMA journal_mode``, as "wal" or "delete"; "": not opened yet.
        self.journal = ""
        #: Connections of the parent process.
        self._inherited: list[sqlite3.Connection] = []

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
        """The database file, with symbolic links resolved, as SQLite does for its ``-wal``."""
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
        """The same as bytes, for C."""
        return self._resolved()[2]

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def opened(self) -> None:
        """Remembers which file it is."""
        self._file = self._file or self._identity()

    def is_same(self) -> bool:
        """Whether the file that was `opened` is still there."""
        return self._file is not None and self._file == self._identity()

    def is_replaced(self) -> bool:
        """Whether another file has replaced the one that was `opened`.  Logs it once.

        If the file is only gone, nothing can be done: processes that have it open continue with it.
        """
        found = self._identity()
        if None in (self._file, found) or found == self._file:
            return False
        self._file = None
        logger.warning("database %r was replaced while in use; opening it again", self.alias)
        return True

    def inherit(self, connections: Iterable[sqlite3.Connection], *, are_idle: bool) -> None:
        """In a forked child: these are the parent's, and whether no thread was using one."""
        (self._inherited if are_idle else _abandoned).extend(connections)
        if self._inherited or _abandoned:  # also by the parent itself
            self.hold_log()

    def hold_log(self) -> None:
        """In a forked child with open connections: takes the locks that SQLite notes for them.

        SQLite notes the locks on a file by process.  The child inherits the note, but not the
        locks, and takes none for connections of its own.  When the parent closes the file, it would
        then delete the log in which the child reads and writes.

        SQLite itself may not be entered right after a fork, because a thread of the parent may have
        been in it.  It releases these locks when the child closes the last connection.
        """
        if fcntl is None or not self.log.exists():
            return
        for suffix, start, length in LOCKS:
            with suppress(OSError):  # the last connection is just being closed
                # Never closed, because that would drop all locks of this process on the file.
                file = os.open(f"{self.path}{suffix}", os.O_RDONLY | os.O_CLOEXEC)
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, length, start)

    def close_inherited(self) -> None:
        """Call before this process opens its first connection.

        After a fork without hooks the parent may have deleted the log meanwhile, with whose index
        an open connection would go on.

        SQLite's documentation forbids to close them in a child (howtocorrupt.html 2.6).  Outside of
        a transaction it does no harm: the kernel's locks belong to one process, and the log is only
        deleted with a lock that is refused while another process has the file open.
        """
        inherited, self._inherited = self._inherited, []
        for connection in inherited:
            with suppress(sqlite3.ProgrammingError):  # it is closed
                if connection.in_transaction:
                    _abandoned.append(connection)
                else:
                    connection.close()

    @property
    def timeout(self) -> float:
        """Seconds to wait for a lock: ``OPTIONS["timeout"]``, or 30."""
        return float(self._options.get("timeout", DEFAULT_TIMEOUT))

    def parameters(self, timeout: float | None = None) -> dict[str, Any]:
        """The arguments of ``sqlite3.connect``, for autocommit and for use in any thread."""
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
        """A new connection, with its settings.  Raises ``sqlite3.Error``.

        Without ``checkpoints``, no commit moves the log into the database.
        """
        self.close_inherited()
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

        The busy timeout is ``timeout``, whatever that command sets, because an event loop may wait.
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
        self.use_log(connection.execute)
        for command in PRAGMAS:
            connection.execute(command).fetchall()

    def use_log(self, execute: Callable[[str, Sequence[Any]], Iterable[Any]]) -> None:
        """Switches the file to a write-ahead log, unless ``init_command`` decides about it.

        Raises ``sqlite3.OperationalError`` if another connection's transaction prevents it.
        """
        self.read_journal(execute)
        # Read it first: setting it, even to its current value, needs locks that another may hold.
        if self.journal != "wal" and self._options.get("init_command") is None:
            [(self.journal,)] = execute("PRAGMA journal_mode = WAL", ())

    def read_journal(self, execute: Callable[[str, Sequence[Any]], Iterable[Any]]) -> None:
        """Reads the mode again, because another program may have changed it."""
        [(self.journal,)] = execute("PRAGMA journal_mode", ())
