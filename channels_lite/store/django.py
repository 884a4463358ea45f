"""The store of the core layer: Django's own connection; and how a send joins a transaction.

``DjangoStore`` runs work on a connection of the alias that Django made, so every Django setting
holds and the hooks see each commit: that of a thread of the store's own, which no slow view can
hold up.  An in-memory database, as Django's tests have, is found on the caller's thread only.

``transaction_of_caller`` is about the thread that waits in ``async_to_sync``.  If that is inside
``atomic()``, its connection holds the lock that a second connection waits for, and gives it up
only after the call that waits.  So the work runs there, on that connection, and shares its fate.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from asgiref.sync import AsyncToSync, sync_to_async
from django.db import connections, transaction
from django.db.backends.signals import connection_created

from channels_lite.loops import is_ending
from channels_lite.store import Execute, Outcome, T, Work, is_in_memory, perform, writing
from channels_lite.store.attempt import Attempt, pause
from channels_lite.store.connection import Source
from channels_lite.store.queued import QueuedStore
from channels_lite.store.worker import Worker

__all__ = [
    "DjangoStore",
    "after_commit_of",
    "remember",
    "run_in_transaction_of",
    "tell_committed",
    "transaction_of_caller",
]


class DjangoStore(QueuedStore):
    """Runs work on Django's connections.  Owns a thread, that a work that waits does not hold up.

    No lock: what is shared with that thread is its queue.
    """

    def __init__(self, alias: str, pool_size: int) -> None:
        # One thread, for SQLite has one writer; pool_size is the aio layer's.
        self._alias = alias
        super().__init__(Source(alias))

    def _begin(self) -> None:
        super()._begin()
        self._worker = self._new_worker()
        self._connection: Any = None  # that thread's
        self._tasks: set[asyncio.Task[None]] = set()

    def _new_worker(self) -> Worker:
        return Worker("channels-lite-core", self._do_in_thread, _refuse, at_end=self._disconnect)

    def _submit(self, attempt: Attempt[Any]) -> None:
        if is_in_memory(self._alias):
            task = asyncio.get_running_loop().create_task(
                _on_callers_thread(partial(self._do_here, attempt), attempt)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif is_ending():  # no thread can be started any more
            self.close()
            self._do_here(attempt)
        else:
            self._worker.put(attempt)

    def _do_in_thread(self, attempt: Attempt[T]) -> Outcome[T]:
        with self._gate:
            return _perform(attempt.work, self._alias, write=attempt.write, connect=self._connect)

    def _connect(self, connection: Any) -> None:
        self._connection = connection
        connection.ensure_connection()
        # It is us who wait, see channels_lite.store.attempt; whatever init_command says.
        connection.connection.execute("PRAGMA busy_timeout = 0").fetchall()
        self._source.opened()

    def _disconnect(self) -> None:
        with self._gate:
            connections.close_all()  # this thread's

    def _do_here(self, attempt: Attempt[Any]) -> None:
        """On this thread's connection, with the time-out that it has."""
        while True:
            with self._gate:
                outcome = _perform(attempt.work, self._alias, write=attempt.write)
            if not attempt.must_wait(outcome):
                break
            # A shared-cache in-memory database is locked at once, whatever the time-out.
            time.sleep(pause())
        attempt.finish(outcome)

    def close(self) -> None:
        """Lets what is queued finish, and ends the thread and its connection."""
        self._end_worker().join()

    def _end_worker(self) -> Worker:
        worker, self._worker = self._worker, self._new_worker()
        worker.end()
        return worker

    def drop(self) -> None:
        """Has the thread finish what is queued, close its connection, and end.

        It is told so by its queue, which takes no lock.
        """
        self._worker.end()

    def tidy(self) -> None:
        """Opens the file anew if it was replaced."""
        if self._source.is_replaced():
            self._end_worker()

    def abandon(self) -> None:
        """In a forked child: the parent's thread is not here, its connection not ours."""
        self._source.abandoned.append(self._connection)
        self._begin()


def _refuse(attempt: Attempt[Any], error: RuntimeError) -> None:
    """There is no thread to be had, and with it no connection."""
    attempt.finish(Outcome(error=error))


def _perform(
    work: Work[T], alias: str, *, write: bool, connect: Callable[[Any], None] | None = None
) -> Outcome[T]:
    """On this thread's connection; within its transaction, if it has one.

    ``connect`` is called with it if it is not open.
    """
    connection = connections[alias]

    def execute(sql: str, parameters: Any) -> list[Any]:
        if connect is not None and connection.connection is None:
            connect(connection)
        with connection.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), parameters)
            return cursor.fetchall() if cursor.description else []

    if not write:
        return perform(work, execute, alias)
    if connection.in_atomic_block:
        # A savepoint: what fails here must not spoil what the caller has done so far.
        return perform(_locking(work), execute, alias, transaction.atomic(using=alias))
    return perform(work, execute, alias, writing(execute))


def _locking(work: Work[T]) -> Work[T]:
    """``work`` behind a write that changes nothing, but takes, and waits for, the write lock.

    Django's transactions begin without one, and then a read, as that of a group's members, would
    fix what is seen; the lock would be refused at once if anybody commits before the first write.
    """

    def locked(execute: Execute) -> T:
        execute("DELETE FROM channels_lite_event WHERE 0", ())
        return work(execute)

    return locked


async def _on_callers_thread(job: Callable[[], None], attempt: Attempt[Any]) -> None:
    caller = getattr(AsyncToSync.executors, "current", None)
    if getattr(caller, "_broken", False):
        # It has stopped waiting; this task's own view of it goes, nobody else's.
        AsyncToSync.executors.current = None
    try:
        await sync_to_async(job, thread_sensitive=True)()
    except RuntimeError as error:  # the thread has gone in between; the next look finds another
        attempt.finish(Outcome(error=error))


# Django's open connections by thread and alias.  A thread's identity is used again, but then the
# connection of its predecessor is gone, or replaced here.
_connections: dict[tuple[int | None, str], weakref.ref[Any]] = {}


def remember(connection: Any, **kwargs: object) -> None:
    """Takes note of a connection that this thread has opened."""
    for key, known in list(_connections.items()):
        if known() is None:
            _connections.pop(key, None)
    _connections[threading.get_ident(), connection.alias] = weakref.ref(connection)


def open_connections(alias: str) -> list[Any]:
    """Those that any thread of this process has to this database."""
    known = [reference() for key, reference in list(_connections.items()) if key[1] == alias]
    return [each for each in known if each is not None and each.connection is not None]


connection_created.connect(remember, dispatch_uid="channels_lite.transactions")


def transaction_of_caller(alias: str) -> Executor | None:
    """What runs a function on the thread that waits for us, if that is inside ``atomic()``.

    None for a coroutine that no thread waits for, or one outside a transaction on ``alias``: that
    is seen from here, without the 0.1 ms of asking the thread, for while it waits it changes
    nothing about its connection.
    """
    # First what is quick: asgiref's own look-up takes 60 us when it comes once in a while.
    for reference in list(_connections.values()):
        connection = reference()
        if connection is not None and connection.in_atomic_block:
            break
    else:
        return None
    caller = getattr(AsyncToSync.executors, "current", None)
    if caller is None:
        caller = AsyncToSync.loop_thread_executors.get(asyncio.get_running_loop())
    if caller is None or caller._broken:  # noqa: SLF001 - asgiref has no public way
        return None
    known = _connections.get((caller._work_thread.ident, alias))  # noqa: SLF001 - the same
    connection = known() if known is not None else None
    if connection is None or not connection.in_atomic_block:
        return None
    return caller


class _Note:
    """What is to be done when a transaction is committed; after a rollback it is gone."""

    def __init__(self, connection: Any, tell: Callable[[], None]) -> None:
        self.connection = connection
        self._tell: Callable[[], None] | None = tell

    def tell(self) -> None:
        """Does it, once."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()


# By identity; Django's list of what to do on commit is what keeps them.
_notes: dict[int, weakref.ref[_Note]] = {}


def _keep_note(note: _Note) -> None:
    key = id(note)
    _notes[key] = weakref.ref(note, lambda _: _notes.pop(key, None))


async def run_in_transaction_of(
    caller: Executor, alias: str, work: Work[T], on_commit: Callable[[T], None]
) -> T:
    """Runs ``work`` there: delivered at commit, gone after a rollback.

    ``on_commit`` is called with its value then, on the caller's thread or by `tell_committed`.
    """

    def job() -> T:
        value = _perform(work, alias, write=True).result()
        note = _Note(connections[alias], lambda: on_commit(value))
        transaction.on_commit(note.tell, using=alias)
        _keep_note(note)
        return value

    return await asyncio.wrap_future(caller.submit(job))


async def after_commit_of(caller: Executor, alias: str, tell: Callable[[], None]) -> None:
    """Calls ``tell`` when that transaction is committed, as `run_in_transaction_of` does."""

    def job() -> None:
        note = _Note(connections[alias], tell)
        transaction.on_commit(note.tell, using=alias)
        _keep_note(note)

    await asyncio.wrap_future(caller.submit(job))


def tell_committed() -> None:
    """Tells of transactions that are committed, though their ``on_commit`` was not called yet.

    Django calls them in the order in which they were registered: one that the application has
    registered before it sent a message, and that sends another, comes before ours for the first.
    """
    if _notes:
        for note in [reference() for reference in list(_notes.values())]:
            if (
                note is not None and note.connection.autocommit
            ):  # set after the COMMIT, and before the first is called
                note.tell()
