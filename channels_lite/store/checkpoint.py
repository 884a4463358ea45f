"""Moves the write-ahead log into the database, without blocking a loop.

Facts: SQLite checkpoints inside the COMMIT that makes the log 1000 frames long, with an fsync of
both files.  The first commit after a complete checkpoint restarts the log, with another fsync.
So: the notify layer's connections never checkpoint.  When the log has grown, one process, elected
by a file lock, checkpoints in a thread, and makes that first commit itself.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from channels_lite.failpoints import reach
from channels_lite.store.connection import Source
from channels_lite.store.gate import Gate

try:
    import fcntl
except ImportError:  # Windows: no election
    fcntl = None  # type: ignore[assignment]

__all__ = ["Checkpointer", "checkpoint"]

logger = logging.getLogger(__name__)

# Growth of the log in bytes, and number of works, between two checkpoints: SQLite's own 1000 frames
# of 4 KiB, and about as many commits as write these.
GROWTH = 4_096_000
WORKS = 1000
# Pages that a checkpoint could not move, from which on it warns: 64 MB.
LARGE_LOG = 16_000
# Bytes that the log keeps when it restarts: SQLite never truncates it by itself, so after a long
# read it would stay large.
KEPT = 4 * GROWTH
# Works between two checks of the log's size.
EVERY = 32
FAILED = "checkpoint of %s failed, and will be retried: %s"


class Checkpointer:
    """Counts the works of a store, and checkpoints in a thread when it is time.

    Owns that thread, one at a time.  ``after_work`` is called by one thread at a time.  A
    checkpoint that fails is retried at the next occasion.
    """

    def __init__(self, source: Source, gate: Gate) -> None:
        self._source = source
        self._gate = gate
        self._works = 0
        self._size = 0
        self._thread: threading.Thread | None = None
        self._last_error = ""

    def after_work(self) -> None:
        """Call after each transaction.  Checks the log's size every 32 works (2 us)."""
        self._works += 1
        if self._works % EVERY or (self._thread is not None and self._thread.is_alive()):
            return
        try:
            size = self._source.log.stat().st_size
        except OSError:
            return  # no log: another journal mode, or nothing written yet
        if size < GROWTH or (size - self._size < GROWTH and self._works < WORKS):
            return
        self._works, self._size = 0, size
        self.start()

    def start(self) -> None:
        """Starts a checkpoint."""
        # A daemon: a process that exits need not wait for it, because SQLite recovers the rest.
        thread = threading.Thread(target=self._run, name="channels-lite-checkpoint", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no thread can be started
            self._report(error)
        else:
            self._thread = thread

    def _run(self) -> None:
        with self._gate:
            try:
                _checkpoint(self._source)
            except (sqlite3.Error, OSError) as error:
                self._report(error)
            else:
                self._last_error = ""

    def _report(self, error: Exception) -> None:
        """Warns, once for each cause."""
        if str(error) != self._last_error:
            logger.warning(FAILED, self._source.path, error)
        self._last_error = str(error)


def checkpoint(source: Source) -> bool:
    """Checkpoints, unless another process is doing so, or there is no log.  Blocks.

    Returns whether all of the log is in the database now.
    """
    try:
        return _checkpoint(source)
    except (sqlite3.Error, OSError) as error:
        logger.warning(FAILED, source.path, error)
        return False


def _checkpoint(source: Source) -> bool:
    """Like `checkpoint`.  Raises ``sqlite3.Error`` and ``OSError``."""
    if not source.log.exists():
        return True
    try:
        with _elected(source.sidecar), closing(source.connect()) as connection:
            reach("holding_checkpoint")
            busy, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if busy:
                return False  # SQLite itself is checkpointing, in a commit
            if frames - moved > LARGE_LOG:
                logger.warning(
                    "the log of %s holds %d pages that cannot be moved into the database: a "
                    "connection has been reading in one transaction for a long time",
                    source.path,
                    frames - moved,
                )
            if frames == moved:
                # The commit that restarts the log.  Any write would do; this one changes nothing.
                connection.execute(f"PRAGMA journal_size_limit = {KEPT}").fetchall()
                connection.execute("BEGIN IMMEDIATE").fetchall()
                [version] = connection.execute("PRAGMA user_version").fetchone()
                connection.execute(f"PRAGMA user_version = {version}").fetchall()
                connection.execute("COMMIT").fetchall()
            return bool(frames == moved)
    except BlockingIOError:
        return False  # another process is checkpointing


@contextmanager
def _elected(sidecar: Path) -> Iterator[None]:
    """Holds the lock of the one checkpointing process.  Raises ``BlockingIOError``.

    The lock is on the sidecar directory, not on the database, because closing any descriptor of the
    database would drop this process's SQLite locks (sqlite.org/howtocorrupt.html 2.2).
    """
    try:
        directory = os.open(sidecar, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        yield  # no process listens, or no directory is possible: no election, which only costs time
        return
    try:
        if fcntl is not None:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        if fcntl is not None:
            # Closing is not enough: a child that was forked meanwhile also has it open.
            fcntl.flock(directory, fcntl.LOCK_UN)
        os.close(directory)
