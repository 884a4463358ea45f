"""STORE and CLAIM: the tables, and the threads and connections that run SQL.

``sql.py`` has every statement once, in plain functions of an ``Execute``.  A store runs such a
function as a unit, all of it or nothing, on its own connection, at once or later.  Then it passes
the outcome to a callback.  It is a callback and not an awaitable, because the rows may be claimed
already, and a task that awaits them could be cancelled and lose them.

``direct`` runs work at once, on the loop's own thread; ``aio`` runs it in the threads of aiosqlite;
``django`` runs it on Django's connection, so that a send can join a transaction.

Imports nothing from the other packages.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.db import Error as DjangoError

from channels_lite.errors import StoreUnavailable
from channels_lite.failpoints import reach

__all__ = [
    "Done",
    "Execute",
    "Outcome",
    "Store",
    "Work",
    "is_in_memory",
    "is_locked",
    "migrate_command",
    "perform",
    "refuse",
    "writing",
]

T = TypeVar("T")

#: Runs one statement and returns all its rows.
Execute = Callable[[str, Sequence[Any]], list[Any]]
#: A unit of work; called again, from the start, if the database was locked.
Work = Callable[[Execute], T]


class Outcome(msgspec.Struct, Generic[T], eq=False):
    """The result of a ``Work``: its value, or the error."""

    value: T | None = None
    error: BaseException | None = None

    def result(self) -> T:
        """The value; raises the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


#: Called once, on any thread, when the work is committed or has failed.
Done = Callable[[Outcome[T]], None]


class Store(Protocol):
    """Where a layer's SQL runs.  Usable from every thread and loop of the process."""

    def __init__(self, alias: str, pool_size: int) -> None:
        """For database ``alias``, with at most ``pool_size`` connections if there are several."""

    @property
    def journal(self) -> str:
        """See `connection.Source.journal`."""

    def submit(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """Runs ``work``, each statement of which is a transaction, and calls ``done``.

        Retries a lock, up to the alias's ``OPTIONS["timeout"]`` (30 s).  Then the outcome is
        ``StoreUnavailable``, as when the disk is full.  Other works run meanwhile.

        ``size`` is the number of bytes that it reads or writes, if known: large work runs where it
        blocks no loop.

        Raises nothing: every error is an outcome.  Call it on a running loop, or at exit, when the
        work runs at once.
        """

    def transact(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """Like `submit`, in one transaction.  Transactions of one loop run in their order."""

    def persist(self, work: Work[T], done: Done[T]) -> None:
        """Like `submit`, in one transaction, even if the calling loop ends.

        For rows that were claimed and must be put back.  Keeps no order with other work.
        """

    def version(self) -> Hashable:
        """A value that changes with every change of the database; None if that is not known.

        Called within a ``work``.
        """

    def close(self) -> None:
        """Closes connections.  The next ``submit`` opens new ones."""

    def drop(self) -> None:
        """Closes without waiting, for callers that cannot wait, such as a finalizer.

        After queued work, no thread, connection or descriptor is left.  May be called on any
        thread, even one that is inside the store, because it waits for no lock.
        """

    def tidy(self) -> None:
        """Called regularly: opens the file again if it was replaced."""

    def checkpoint(self) -> None:
        """Moves the log into the database, in a thread: only that makes the file smaller."""

    def pause(self) -> None:
        """Before a fork: returns when no thread is inside SQLite for this store."""

    def resume(self) -> None:
        """After a fork, in the parent."""

    def abandon(self) -> None:
        """After a fork, in the child: forgets the parent's connections without touching them."""


@contextmanager
def writing(execute: Execute) -> Iterator[None]:
    """One transaction that holds the write lock from its start.

    It uses IMMEDIATE because a transaction that begins with a read cannot wait for the lock:
    upgrading fails at once, whatever the timeout (sqlite.org/rescode.html#busy_snapshot).
    """
    try:
        execute("BEGIN IMMEDIATE", ())  # inside the try: Ctrl-C may come right after it
        yield
        reach("before_commit")
        execute("COMMIT", ())
    except BaseException:
        # It may not have begun, or SQLite has already rolled back, for example on a full disk.
        with suppress(sqlite3.Error, DjangoError):
            execute("ROLLBACK", ())
        raise


def perform(
    work: Work[T],
    execute: Execute,
    alias: str,
    transaction: AbstractContextManager[object] | None = None,
) -> Outcome[T]:
    """Runs ``work``, and converts errors of the database into ours.  Never raises.

    It runs in ``transaction``.  If that is None, each statement is a transaction.
    """
    try:
        if transaction is None:
            return Outcome(work(execute))
        with transaction:
            value = work(execute)
    except (sqlite3.Error, DjangoError) as error:
        return refuse(error, alias)
    except Exception as error:  # noqa: BLE001 - passed to the receiver of the outcome
        return Outcome(error=error)
    return Outcome(value)


def migrate_command(alias: str) -> str:
    """The command that creates the tables; in a separate database, only those of channels_lite."""
    own = "" if alias == DEFAULT_DB_ALIAS else f" channels_lite --database={alias}"
    return f"manage.py migrate{own}"


def refuse(error: Exception, alias: str, *, is_reading: bool = False) -> Outcome[Any]:
    """The outcome for an error of sqlite3 or Django: one of our errors, with the fix."""
    text = str(error)
    if "is locked" in text and is_reading:
        ours: Exception = StoreUnavailable(
            f"database {alias!r} is locked: another connection is writing, or was stopped while "
            "it wrote"
        )
    elif "is locked" in text:
        ours = StoreUnavailable(
            f"database {alias!r} stayed locked by another connection for longer than its "
            'OPTIONS["timeout"], or this transaction has read before its first write, and another '
            'connection has written since (OPTIONS["transaction_mode"] = "IMMEDIATE" fixes that); '
            "nothing was written"
        )
    elif "no such table" in text and not apps.is_installed("channels_lite"):
        ours = ImproperlyConfigured(
            f"database {alias!r} lacks the tables of channels_lite, which is not installed: add "
            f"'channels_lite' to INSTALLED_APPS, and run {migrate_command(alias)}"
        )
    elif any(lack in text for lack in ("no such table", "no such column", "has no column")):
        ours = ImproperlyConfigured(
            f"database {alias!r} lacks the tables of channels_lite ({text}): "
            f"run {migrate_command(alias)}; if that has nothing to apply, run manage.py check "
            "--deploy --tag channels_lite"
        )
    elif "not a database" in text:
        ours = ImproperlyConfigured(
            f'DATABASES[{alias!r}]["NAME"] is a file, but not a SQLite database ({text}): use '
            "another file"
        )
    elif "unable to open" in text:
        name = connections.settings[alias]["NAME"]
        ours = StoreUnavailable(
            f"database {alias!r}: {text}: check that {str(name)!r} is a file, that its directory "
            "exists, and that this user may write to both"
        )
    elif is_reading:
        ours = StoreUnavailable(f"database {alias!r} cannot be read: {text}")
    else:
        ours = StoreUnavailable(f"database {alias!r}: {text}; nothing was written")
    ours.__cause__ = error
    return Outcome(error=ours)


def is_locked(outcome: Outcome[Any]) -> bool:
    """Whether a retry can help: another connection holds the lock."""
    error = outcome.error
    return isinstance(error, StoreUnavailable) and "is locked" in str(error.__cause__)


def is_in_memory(alias: str) -> bool:
    """Whether the alias is an in-memory database, such as those of Django's test runner."""
    connection = connections[alias]
    return bool(connection.is_in_memory_db())  # type: ignore[attr-defined]
