"""The store of the core layer, on Django's own connection; and how a send joins a transaction.

``DjangoStore`` runs work on a connection that Django made, so every Django setting applies, and the
hooks see each commit.  It is the connection of a separate thread, which no slow view can block.  An
in-memory database, as in Django's tests, can only be reached on the caller's thread.

``transaction_of_caller`` finds the thread that waits in ``async_to_sync``.  If that thread is
inside ``atomic()``, its connection may hold the lock that a second connection would wait for, and
would release it only after the waiting call.  So the work runs there, on that connection, and
commits or rolls back with it.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any

from asgiref.sync import AsyncToSync, sync_to_async
from django.db import connections, transaction
from django.db.backends.signals import connection_created

from channels_lite.loops import is_ending, running_loop
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
    """Runs work on Django's connections.  Owns a thread; waiting work does not block other work.

    It needs no lock, because only the queue is shared with that thread.
    """

    def __init__(self, alias: str, pool_size: int) -> None:
        # One thread, because SQLite has one writer; pool_size is for the aio layer.
        self._alias = alias
        super().__init__(Source(alias))

    def _begin(self) -> None:
        super()._begin()
        self._worker = self._new_worker()
        self._connection: Any = None  # of that thread

    def _new_worker(self) -> Worker:
        return Worker("channels-lite-core", self._do_in_thread, _refuse, at_end=self._disconnect)

    def _submit(self, attempt: Attempt[Any]) -> None:
        if is_in_memory(self._alias):
            job = partial(self._do_here, attempt)
            try:
                contextvars.copy_context().run(_pass_to_callers_thread, job)
            except RuntimeError as error:  # it has ended; the next look finds another one
                attempt.finish(Outcome(error=error))
        elif is_ending() and running_loop() is None:  # no thread can be started any more
            self.close()
            self._do_here(attempt)
        else:  # also on a loop that runs at the end: Django refuses to work on its thread
            self._worker.put(attempt)

    def _do_in_thread(self, attempt: Attempt[T]) -> Outcome[T]:
        with self._gate:
            return _perform(attempt.work, self._alias, write=attempt.write, connect=self._connect)

    def _connect(self, connection: Any) -> None:
        self._connection = connection
        self._source.close_inherited()
        connection.ensure_connection()
        # The store itself retries, see channels_lite.store.attempt, whatever init_command sets.
        execute = connection.connection.execute
        execute("PRAGMA busy_timeout = 0").fetchall()
        self._source.opened()
        # With a rollback journal, a program that writes without a pause keeps everyone out.
        with suppress(sqlite3.OperationalError):  # refused now; the next connection tries again
            self._source.use_log(execute)

    def _disconnect(self) -> None:
        with self._gate:
            connections.close_all()  # of this thread

    def _do_here(self, attempt: Attempt[Any]) -> None:
        """Runs it on this thread's connection, with the timeout of that connection."""
        while True:
            with self._gate:
                outcome = _perform(attempt.work, self._alias, write=attempt.write)
            if not attempt.must_wait(outcome):
                break
            # A shared-cache in-memory database is locked at once, whatever the timeout.
            time.sleep(pause())
        attempt.finish(outcome)

    def close(self) -> None:
        """Lets queued work finish, and ends the thread and its connection."""
        self._end_worker().join()

    def _end_worker(self) -> Worker:
        worker, self._worker = self._worker, self._new_worker()
        worker.end()
        return worker

    def drop(self) -> None:
        """Lets the thread finish queued work, close its connection, and end.

        It sends this through the queue, which takes no lock.
        """
        self._worker.end()

    def tidy(self) -> None:
        """Opens the file again if it was replaced."""
        if self._source.is_replaced():
            self._end_worker()

    def abandon(self) -> None:
        """In a forked child: starts again, without the connection of the parent."""
        if self._connection is not None:
            opened, self._connection.connection = self._connection.connection, None
            self._source.inherit(filter(None, [opened]), are_idle=self._gate.is_empty)
        self._begin()


def _refuse(attempt: Attempt[Any], error: RuntimeError) -> None:
    """No thread can be started, so there is no connection."""
    attempt.finish(Outcome(error=error))


def _perform(
    work: Work[T], alias: str, *, write: bool, connect: Callable[[Any], None] | None = None
) -> Outcome[T]:
    """Runs ``work`` on this thread's connection; within its transaction, if it has one.

    Calls ``connect`` with the connection if it is not open.
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
        # A savepoint: a failure here must not undo the earlier work of the caller.
        return perform(_locking(work), execute, alias, transaction.atomic(using=alias))
    return perform(work, execute, alias, writing(execute))


def _locking(work: Work[T]) -> Work[T]:
    """``work`` after a write that changes nothing, but takes, and waits for, the write lock.

    Django's transactions begin without the lock.  A read, such as that of a group's members, would
    then fix the snapshot, and the lock would be refused at once if another connection commits
    before the first write.
    """

    def locked(execute: Execute) -> T:
        execute("DELETE FROM channels_lite_event WHERE 0", ())
        return work(execute)

    return locked


def _pass_to_callers_thread(job: Callable[[], None]) -> None:
    """Raises RuntimeError if there is no such thread any more."""
    caller = getattr(AsyncToSync.executors, "current", None)
    if getattr(caller, "_broken", False):
        # That thread has stopped waiting.  This changes only the view of this context.
        AsyncToSync.executors.current = None
    # The first step passes the job on.  A task that waits for the rest may be left behind by a loop
    # that ends.
    steps = sync_to_async(job, thread_sensitive=True)()
    steps.send(None)
    steps.close()


# Django's open connections by thread and alias.  A thread's identity may be reused, but then the
# connection of the previous thread is gone, or replaced here.
_connections: dict[tuple[int | None, str], weakref.ref[Any]] = {}


def remember(connection: Any, **kwargs: object) -> None:
    """Remembers a connection that this thread has opened."""
    for key, known in list(_connections.items()):
        if known() is None:
            _connections.pop(key, None)
    _connections[threading.get_ident(), connection.alias] = weakref.ref(connection)


def open_connections(alias: str) -> list[tuple[int | None, Any]]:
    """The connections to this database in this process, each with the thread that uses it."""
    found = [
        (thread, reference())
        for (thread, of_alias), reference in list(_connections.items())
        if of_alias == alias
    ]
    return [each for each in found if each[1] is not None and each[1].connection is not None]


connection_created.connect(remember, dispatch_uid="channels_lite.transactions")


def transaction_of_caller(alias: str) -> Executor | None:
    """An executor for the thread that waits for this coroutine, if it is inside ``atomic()``.

    None if no thread waits, or if the thread is outside a transaction on ``alias``.  This is read
    from here, without the 0.1 ms of asking the thread, because a waiting thread does not change its
    connection.
    """
    # The fast check first: asgiref's own look-up takes 60 us if it is used rarely.
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
    """A callback for the commit of a transaction.  A rollback discards it."""

    def __init__(self, connection: Any, tell: Callable[[], None]) -> None:
        self.connection = connection
        self._tell: Callable[[], None] | None = tell

    def tell(self) -> None:
        """Calls it, once."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()


# By identity.  Django's list of on_commit callbacks keeps them alive.
_notes: dict[int, weakref.ref[_Note]] = {}


def _keep_note(note: _Note) -> None:
    key = id(note)
    _notes[key] = weakref.ref(note, lambda _: _notes.pop(key, None))


async def run_in_transaction_of(
    caller: Executor, alias: str, work: Work[T], on_commit: Callable[[T], None]
) -> T:
    """Runs ``work`` there, so that it commits or rolls back with the transaction.

    At commit, ``on_commit`` is called with its value, on the caller's thread or by
    `tell_committed`.
    """

    def job() -> T:
        value = _perform(work, alias, write=True).result()
        note = _Note(connections[alias], lambda: on_commit(value))
        transaction.on_commit(note.tell, using=alias)
        _keep_note(note)
        return value

    return await asyncio.wrap_future(caller.submit(job))


async def after_commit_of(caller: Executor, alias: str, tell: Callable[[], None]) -> None:
    """Calls ``tell`` after the commit of that transaction, like `run_in_transaction_of`."""

    def job() -> None:
        note = _Note(connections[alias], tell)
        transaction.on_commit(note.tell, using=alias)
        _keep_note(note)

    await asyncio.wrap_future(caller.submit(job))


def tell_committed() -> None:
    """Calls the callbacks of committed transactions whose ``on_commit`` was not called yet.

    Django calls callbacks in the order of registration.  A callback that the application registered
    before it sent a message runs before ours for that message, and may send another message.
    """
    if _notes:
        for note in [reference() for reference in list(_notes.values())]:
            if (
                note is not None and note.connection.autocommit
            ):  # set after the COMMIT, and before the first callback
                note.tell()
