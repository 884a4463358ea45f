"""Moves the write-ahead log into the database, off every path that a loop waits for.

Facts: SQLite checkpoints inside the COMMIT that makes the log 1000 frames long, with an fsync of
both files; and the first commit after a complete checkpoint restarts the log with another fsync.
So: the notify layer's connections never checkpoint; when the log has grown, one process, elected
by a file lock, does so from a thread, and makes that first commit itself.
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

# Bytes the log grows by, and works done on the connection, between two checkpoints: SQLite's own
# 1000 frames of 4 KiB, and as many commits as make that many.
GROWTH = 4_096_000
WORKS = 1000
# Pages of the log that a checkpoint had to leave, worth a warning: 64 MB.
LARGE_LOG = 16_000
# Bytes that the log keeps when it is begun anew: SQLite never shortens it by itself, so what a
# long reader made of it would stay.
KEPT = 4 * GROWTH
# Works between two looks at the log's size.
EVERY = 32
FAILED = "checkpoint of %s failed, and will be retried: %s"


class Checkpointer:
    """Counts what a store does, and checkpoints in a thread when it is time.

    Owns that thread, one at a time.  ``after_work`` is called by one thread at a time.  Whatever
    keeps a checkpoint from being made, the next one may do.
    """

    def __init__(self, source: Source, gate: Gate) -> None:
        self._source = source
        self._gate = gate
        self._works = 0
        self._size = 0
        self._thread: threading.Thread | None = None
        self._last_error = ""

    def after_work(self) -> None:
        """Call after each transaction; looks at the log's size now and then (2 us)."""
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
        """Starts one."""
        # A daemon: a process that exits need not wait for it, SQLite recovers what is missing.
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
    """One checkpoint, unless another process is at it, or there is no log.  Blocks.

    Returns whether all of the log is in the database now.
    """
    try:
        return _checkpoint(source)
    except (sqlite3.Error, OSError) as error:
        logger.warning(FAILED, source.path, error)
        return False


def _checkpoint(source: Source) -> bool:
    """The same.  Raises ``sqlite3.Error`` and ``OSError``."""
    if not source.log.exists():
        return True
    try:
        with _elected(source.sidecar), closing(source.connect()) as connection:
            reach("holding_checkpoint")
            busy, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if busy:
                return False  # who checkpoints without asking: SQLite itself, in a commit
            if frames - moved > LARGE_LOG:
                logger.warning(
                    "the log of %s holds %d pages that cannot be moved into the database: a "
                    "connection has been reading in one transaction for a long time",
                    source.path,
                    frames - moved,
                )
            if frames == moved:
                # The commit that restarts the log: any write does, this one changes nothing.
                connection.execute(f"PRAGMA journal_size_limit = {KEPT}").fetchall()
                connection.execute("BEGIN IMMEDIATE").fetchall()
                [version] = connection.execute("PRAGMA user_version").fetchone()
                connection.execute(f"PRAGMA user_version = {version}").fetchall()
                connection.execute("COMMIT").fetchall()
            return bool(frames == moved)
    except BlockingIOError:
        return False  # another process is at it


@contextmanager
def _elected(sidecar: Path) -> Iterator[None]:
    """Holds the lock of the one checkpointing process.  Raises ``BlockingIOError``.

    The lock is on the sidecar directory, not on the database: closing any descriptor of that
    would drop this process's SQLite locks (sqlite.org/howtocorrupt.html 2.2).
    """
    try:
        directory = os.open(sidecar, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        yield  # nobody listens, or no such directories here: no election, which costs time only
        return
    try:
        if fcntl is not None:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        if fcntl is not None:
            # Closing is not enough: a child that was forked meanwhile has it open, too.
            fcntl.flock(directory, fcntl.LOCK_UN)
        os.close(directory)
