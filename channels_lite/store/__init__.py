"""STORE and CLAIM: where rows are, and on which thread and connection the SQL runs.

What is done to the tables is written once, in ``sql.py``, as plain functions of an ``Execute``.
A store runs such a function as a unit: all of it or nothing, on its own connection, at once or
later, and then hands the outcome to a callback.  A callback, not an awaitable: the rows may be
claimed already, and a task that awaited them could be cancelled and lose them.

``direct`` runs it at once, on the loop's own thread; ``aio`` in the threads of aiosqlite;
``django`` on Django's connection, which is how a send joins a transaction.

Imports nothing of the other packages.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

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
#: What is to be done; called again, from the start, when the database was locked.
Work = Callable[[Execute], T]


@dataclass(slots=True)
class Outcome(Generic[T]):
    """What became of a ``Work``: its value, or the error."""

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
        """For database ``alias``; ``pool_size`` connections at most, where there are several."""

    @property
    def journal(self) -> str:
        """See `connection.Source.journal`."""

    def submit(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """Runs ``work``, each statement of which is a transaction, and calls ``done``.

        A lock is waited for, up to the alias's ``OPTIONS["timeout"]`` (30 s); then the outcome is
        ``StoreUnavailable``, as when the disk is full.  Meanwhile other works are done.

        ``size`` is how many bytes it reads or writes, as far as that is known: what is large is
        done where it holds no loop.

        Raises nothing: whatever keeps it from being done is its outcome.  Called on a running
        loop, or at exit, when it is done at once.
        """

    def transact(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """The same in one transaction.  Those of one loop are done in their order."""

    def persist(self, work: Work[T], done: Done[T]) -> None:
        """The same in one transaction, whatever becomes of the loop that asks.

        For what was taken and must be put back.  It keeps no order with what else is submitted.
        """

    def version(self) -> Hashable:
        """What changes with every change of the database; None where that is not known.

        Called within a ``work``.
        """

    def close(self) -> None:
        """Gives connections back; the next ``submit`` opens new ones."""

    def drop(self) -> None:
        """The same without waiting; for who cannot close, as a finalizer.

        After it, and after what is queued, no thread, connection or descriptor is left.  May be
        called on any thread, even one that is inside the store, for it waits for no lock.
        """

    def tidy(self) -> None:
        """Called now and then: opens the file anew if it was replaced."""

    def checkpoint(self) -> None:
        """Moves the log into the database, in a thread: only that makes the file shorter."""

    def pause(self) -> None:
        """Before a fork: returns when no thread is inside SQLite for this store."""

    def resume(self) -> None:
        """After it, in the parent."""

    def abandon(self) -> None:
        """After it, in the child: forgets the parent's connections without touching them."""


@contextmanager
def writing(execute: Execute) -> Iterator[None]:
    """One transaction that holds the write lock from its start.

    IMMEDIATE, for a transaction that begins by reading cannot wait for the lock: upgrading
    fails at once, whatever the timeout (sqlite.org/rescode.html#busy_snapshot).
    """
    try:
        execute("BEGIN IMMEDIATE", ())  # within: Ctrl-C may come right after it
        yield
        reach("before_commit")
        execute("COMMIT", ())
    except BaseException:
        # It may not have begun, or, as on a full disk, SQLite has rolled back by itself.
        with suppress(sqlite3.Error, DjangoError):
            execute("ROLLBACK", ())
        raise


def perform(
    work: Work[T],
    execute: Execute,
    alias: str,
    transaction: AbstractContextManager[object] | None = None,
) -> Outcome[T]:
    """Runs ``work`` and turns what the database raises into ours.  Never raises.

    ``transaction`` is what it runs in, None for a transaction a statement.
    """
    try:
        with transaction or nullcontext():
            value = work(execute)
    except (sqlite3.Error, DjangoError) as error:
        return refuse(error, alias)
    except Exception as error:  # noqa: BLE001 - passed on to whoever waits for the outcome
        return Outcome(error=error)
    return Outcome(value)


def migrate_command(alias: str) -> str:
    """What makes the tables there, and no others in a database of the channels' own."""
    own = "" if alias == DEFAULT_DB_ALIAS else f" channels_lite --database={alias}"
    return f"manage.py migrate{own}"


def refuse(error: Exception, alias: str, *, is_reading: bool = False) -> Outcome[Any]:
    """The outcome for an error of sqlite3's or Django's: one of ours, with the mend."""
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
    """Whether trying again can help: another connection holds the lock."""
    return isinstance(outcome.error, StoreUnavailable) and "is locked" in str(
        outcome.error.__cause__
    )


def is_in_memory(alias: str) -> bool:
    """Whether the alias is an in-memory database, as Django's test runner makes of a SQLite one."""
    connection = connections[alias]
    return bool(connection.is_in_memory_db())  # type: ignore[attr-defined]
