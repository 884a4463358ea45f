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
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from asgiref.sync import AsyncToSync, sync_to_async
from django.db import connections, transaction
from django.db.backends.signals import connection_created

from channels_lite.loops import is_ending
from channels_lite.store import (
    Done,
    Execute,
    Outcome,
    T,
    Work,
    is_in_memory,
    is_locked,
    perform,
    writing,
)
from channels_lite.store.checkpoint import checkpoint_in_thread
from channels_lite.store.connection import Source
from channels_lite.store.gate import Gate

__all__ = ["DjangoStore", "remember", "run_in_transaction_of", "transaction_of_caller"]

# Seconds between two tries where SQLite's own wait does not apply: a shared-cache in-memory
# database answers SQLITE_LOCKED at once.
RETRY = 0.01


class DjangoStore:
    """Runs work on Django's connections."""

    def __init__(self, alias: str, pool_size: int) -> None:
        # One thread, for SQLite has one writer; pool_size is the aio layer's.
        self._alias = alias
        self._source = Source(alias)
        self._lock = threading.Lock()
        self._gate = Gate()
        self._thread: ThreadPoolExecutor | None = None
        self._connection: Future[Any]  # that thread's
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, work: Work[T], done: Done[T], *, write: bool) -> None:
        """Runs ``work`` in the thread that fits; ``done`` is called there."""

        def job() -> None:
            with self._gate:
                outcome = _perform_patiently(work, self._alias, write=write)
            done(outcome)

        if is_in_memory(self._alias):
            task = asyncio.get_running_loop().create_task(_on_callers_thread(job, done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            with self._lock:
                if self._thread is None:
                    self._start()
                self._thread.submit(job)  # type: ignore[union-attr]
        except RuntimeError as error:  # no thread can be started, or Python has ended it already
            if is_ending():
                job()
            else:
                done(Outcome(error=error))

    def _start(self) -> None:
        thread = ThreadPoolExecutor(1, thread_name_prefix="channels-lite-core")
        try:
            self._connection = thread.submit(connections.__getitem__, self._alias)
        except RuntimeError:
            thread.shutdown(wait=False, cancel_futures=True)  # it was queued before
            raise
        self._thread = thread
        self._source.opened()

    def version(self) -> None:
        """Not known: any thread's connection may be asked."""

    def close(self) -> None:
        """Ends the thread, and closes its connection."""
        with self._lock:
            if self._thread is None:
                return
            thread, connection, self._thread = self._thread, self._connection, None
        try:
            thread.submit(connection.result().close)
        except RuntimeError:  # at exit, when Python has ended the thread already
            connection.result().inc_thread_sharing()
            connection.result().close()
        thread.shutdown()

    def tidy(self) -> None:
        """Opens the file anew if it was replaced."""
        if self._source.is_replaced():
            threading.Thread(target=self.close, daemon=True).start()  # it waits for what is queued

    def checkpoint(self) -> None:
        """Starts one."""
        checkpoint_in_thread(self._source, self._gate)

    def pause(self) -> None:
        """Before a fork."""
        self._gate.shut()

    def resume(self) -> None:
        """After it, in the parent."""
        self._gate.open()

    def abandon(self) -> None:
        """In a forked child: the parent's thread is not here, its connection not ours."""
        if self._thread is not None:
            self._source.abandoned.append(self._connection)
        self._thread, self._tasks = None, set()
        self._lock, self._gate = threading.Lock(), Gate()


def _perform_patiently(work: Work[T], alias: str, *, write: bool) -> Outcome[T]:
    deadline = time.monotonic() + Source(alias).timeout
    while True:
        outcome = _perform(work, alias, write=write)
        if not is_locked(outcome) or time.monotonic() > deadline:
            return outcome
        time.sleep(RETRY)


def _perform(work: Work[T], alias: str, *, write: bool) -> Outcome[T]:
    """On this thread's connection; within its transaction, if it has one."""
    connection = connections[alias]

    def execute(sql: str, parameters: Any) -> list[Any]:
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


async def _on_callers_thread(job: Callable[[], None], done: Done[Any]) -> None:
    caller = getattr(AsyncToSync.executors, "current", None)
    if getattr(caller, "_broken", False):
        # It has stopped waiting; this task's own view of it goes, nobody else's.
        AsyncToSync.executors.current = None
    try:
        await sync_to_async(job, thread_sensitive=True)()
    except RuntimeError as error:  # the thread has gone in between; the next look finds another
        done(Outcome(error=error))


# Django's open connections by thread and alias.  A thread's identity is used again, but then the
# connection of its predecessor is gone, or replaced here.
_connections: dict[tuple[int | None, str], weakref.ref[Any]] = {}


def remember(connection: Any, **kwargs: object) -> None:
    """Takes note of a connection that this thread has opened."""
    for key, known in list(_connections.items()):
        if known() is None:
            _connections.pop(key, None)
    _connections[threading.get_ident(), connection.alias] = weakref.ref(connection)


connection_created.connect(remember, dispatch_uid="channels_lite.transactions")


def transaction_of_caller(alias: str) -> Executor | None:
    """What runs a function on the thread that waits for us, if that is inside ``atomic()``.

    None for a coroutine that no thread waits for, or one outside a transaction on ``alias``: that
    is seen from here, without the 0.1 ms of asking the thread, for while it waits it changes
    nothing about its connection.
    """
    # First what is quick: asgiref's own look-up takes 60 us when it comes once in a while.
    if not any(
        known is not None and known.in_atomic_block
        for known in [connection() for connection in list(_connections.values())]
    ):
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


async def run_in_transaction_of(
    caller: Executor, alias: str, work: Work[T], on_commit: Callable[[T], None]
) -> T:
    """Runs ``work`` there: delivered at commit, gone after a rollback.

    ``on_commit`` is called with its value then, on the caller's thread.
    """

    def job() -> T:
        value = _perform(work, alias, write=True).result()
        transaction.on_commit(lambda: on_commit(value), using=alias)
        return value

    return await asyncio.wrap_future(caller.submit(job))
