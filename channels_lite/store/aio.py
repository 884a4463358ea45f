"""The store of the aio layer: a pool of aiosqlite connections, each with its thread.

Facts: an aiosqlite connection answers to the calling loop.  Its thread dies if that loop is closed
meanwhile, like the short loops of ``async_to_sync``.  It takes one call at a time, but a
transaction needs several, and a task can be cancelled between them while it holds the write lock.
So: the connections belong to a loop of the store's own, in a thread, which outlives all others.  A
whole ``Work`` is one call, with our own connection class (``sqlite3.connect(factory=...)``).  Work
that must wait for a lock waits on that loop, and other work uses its connection meanwhile.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import weakref
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from channels_lite.loops import is_ending
from channels_lite.store import Outcome, T, Work, perform, refuse, writing
from channels_lite.store.attempt import Attempt, pause
from channels_lite.store.connection import Source
from channels_lite.store.gate import Gate
from channels_lite.store.keeper import Keeper
from channels_lite.store.queued import QueuedStore

try:  # an extra; imported here, because a fork during an import in a thread deadlocks the child
    import aiosqlite
except ImportError:
    aiosqlite = None  # type: ignore[assignment]

__all__ = ["AioStore"]


# The pools of a parent process, kept forever: collecting one would close the parent's loop.
_abandoned: list[Any] = []


class WorkConnection(sqlite3.Connection):
    """A connection whose ``execute`` also takes a callable, and runs it on its thread."""

    def __init__(
        self, *args: Any, gate: Gate, opened: weakref.WeakSet[WorkConnection], **kwargs: Any
    ) -> None:
        self.gate = gate
        with gate:
            super().__init__(*args, **kwargs)
            opened.add(self)

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        """Like ``sqlite3``'s; or calls ``sql`` with the connection."""
        if not callable(sql):
            return super().execute(sql, parameters)
        with self.gate:
            return sql(self)

    def close(self) -> None:
        """Like ``sqlite3``'s."""
        with self.gate:
            super().close()


def run(connection: sqlite3.Connection, work: Work[T], alias: str, *, write: bool) -> Outcome[T]:
    """Runs ``work`` on that connection; with ``write``, in a transaction."""

    def execute(sql: str, parameters: Any) -> list[Any]:
        return connection.execute(sql, parameters).fetchall()

    return perform(work, execute, alias, writing(execute) if write else None)


class _Pool:
    """Connections to one file, on a loop in a separate thread."""

    def __init__(
        self, source: Source, gate: Gate, size: int, opened: weakref.WeakSet[WorkConnection]
    ) -> None:
        self._source = source
        self._gate = gate
        self._opened = opened
        #: Only this loop touches the idle connections.
        self.loop = asyncio.new_event_loop()
        self.idle: list[Any] = []
        self._room = asyncio.Semaphore(size)
        # A daemon, because a script that only sends must exit without closing its layer.
        thread = threading.Thread(target=self._serve, name="channels-lite-aio", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self.loop.close()
            raise

    def _serve(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def submit(self, attempt: Attempt[Any]) -> None:
        """See `Store.submit`."""
        asyncio.run_coroutine_threadsafe(self._run(attempt), self.loop)

    async def _run(self, attempt: Attempt[Any]) -> None:
        while True:
            if await self._try(attempt):
                return
            await asyncio.sleep(pause())

    async def _try(self, attempt: Attempt[Any]) -> bool:
        """False: it must wait for a lock."""
        is_finished = True

        def job(connection: WorkConnection) -> None:
            nonlocal is_finished
            outcome = run(connection, attempt.work, self._source.alias, write=attempt.write)
            is_finished = not attempt.must_wait(outcome)
            if is_finished:
                attempt.finish(outcome)

        async with self._room:
            try:
                connection = self.idle.pop() if self.idle else await self._connect()
            except sqlite3.Error as error:
                attempt.finish(refuse(error, self._source.alias))
                return True
            except Exception as error:  # noqa: BLE001 - such as misspelt OPTIONS; passed on
                attempt.finish(Outcome(error=error))
                return True
            try:
                await connection.execute(job)  # the outcome of the work goes to `done`
            finally:
                self.idle.append(connection)
        return is_finished

    async def _connect(self) -> Any:
        deadline = time.monotonic() + self._source.timeout
        while True:
            try:
                return await self._connect_now()
            except sqlite3.OperationalError as error:
                if "is locked" not in str(error) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(pause())

    async def _connect_now(self) -> Any:
        self._source.close_inherited()
        parameters = self._source.parameters(timeout=0)
        parameters["factory"] = partial(WorkConnection, gate=self._gate, opened=self._opened)
        connection = aiosqlite.connect(parameters.pop("database"), **parameters)
        # There is no public way to set this, and aiosqlite's thread would keep a process alive.
        connection._thread.daemon = True  # noqa: SLF001
        try:
            await connection
        except BaseException:
            connection._thread.join()  # noqa: SLF001 - it ends now, and would tell a closed loop so
            raise
        try:
            await connection.execute(partial(self._source.set_up, timeout=0))
        except sqlite3.Error:
            await connection.close()
            raise
        return connection

    def end(self) -> Future[None]:
        """Ends the threads after the queued work.  Takes no lock, and does not wait."""
        return asyncio.run_coroutine_threadsafe(self._stop(), self.loop)

    async def _stop(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*running, return_exceptions=True)
        for connection in self.idle:
            await connection.close()
        self.loop.call_soon(self.loop.stop)


class AioStore(QueuedStore):
    """Runs work in the threads of aiosqlite.  Owns a pool of them, under ``_keeper``'s lock."""

    def __init__(self, alias: str, pool_size: int) -> None:
        if aiosqlite is None:
            raise ImproperlyConfigured(
                "the aio layer needs the package aiosqlite: pip install channels-lite[aio]"
            )
        self._pool_size = pool_size
        super().__init__(Source(alias))

    def _begin(self) -> None:
        super()._begin()
        self._keeper = Keeper(self._give_back)
        #: None if it was closed: the next one opens the file that is there then.
        self._pool: _Pool | None = None
        #: Also those of a pool that is ending.
        self._opened: weakref.WeakSet[WorkConnection] = weakref.WeakSet()

    def _submit(self, attempt: Attempt[Any]) -> None:
        if is_ending():  # no thread can be started any more, nor, with it, a connection
            self.close()
            self._run_here(attempt)
            return
        try:
            with self._keeper:
                if self._pool is None:
                    self._pool = _Pool(self._source, self._gate, self._pool_size, self._opened)
                self._pool.submit(attempt)
        except RuntimeError as error:  # no thread can be started
            attempt.finish(Outcome(error=error))

    def _run_here(self, attempt: Attempt[Any]) -> None:
        try:
            with closing(self._source.connect()) as connection:
                outcome = run(connection, attempt.work, self._source.alias, write=attempt.write)
        except sqlite3.Error as error:
            outcome = refuse(error, self._source.alias)
        attempt.finish(outcome)

    def close(self) -> None:
        """Lets queued work finish, then ends the threads."""
        with self._keeper:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.end().result()

    def drop(self) -> None:
        """Lets the pool's thread finish queued work, close the connections, and end.

        If a thread, possibly this one, is just submitting work, this happens after that.
        """
        self._keeper.drop()

    def _give_back(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.end()

    def tidy(self) -> None:
        """Opens the file again if it was replaced."""
        if self._source.is_replaced():
            self._keeper.ask()

    def abandon(self) -> None:
        """In a forked child: starts again, without the connections of the parent."""
        if self._pool is not None:
            _abandoned.append(self._pool)
        are_idle, inherited = self._gate.is_empty, self._opened
        self._begin()
        for connection in inherited:
            connection.gate = self._gate  # the parent's is shut
        self._source.inherit(inherited, are_idle=are_idle)
