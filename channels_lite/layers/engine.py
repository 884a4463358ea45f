"""A layer's life in a process: it is flushed, cleaned, closed, forked and dropped.

What it consists of meanwhile is in `parts`; forks and the exit are told by `process`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from channels_lite import clock, process
from channels_lite.layers.parts import Parts
from channels_lite.loops import call_on, is_ending, settle
from channels_lite.store import Execute, Outcome, sql, upkeep
from channels_lite.store.django import open_connections, transaction_of_caller
from channels_lite.wake.hooks import attach_django, hooks

__all__ = ["Engine"]


class Engine(Parts):
    """The parts, and what becomes of them together.  No state of its own."""

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        process.add(self)
        # Those to come are hooked when they are opened.
        for connection in open_connections(self.config.database):
            attach_django(connection)

    async def get_ready(self) -> None:
        """Before the name of a channel of this process gets about."""

    async def flush(self) -> None:
        """See `base.BaseSQLiteChannelLayer.flush`, as for those that follow."""
        if self.clock.began_at is None:
            await self.generations.ask()
        boot, began_at = clock.boot_id(), self.clock.origin()

        def operation(execute: Execute, batch: sql.Batch) -> sql.FlushMark:
            with batch.transaction(execute):
                upkeep.flush(execute, clock.ticks(), boot, began_at)
                return sql.table(execute).flushed

        def tell(flushed: sql.FlushMark) -> None:
            for other in process.members(Engine):  # those of this process need not look to know
                other.flushed(self.source.path, flushed)
            hooks.wake_all(self.source.sidecar_bytes)

        await self.outgoing.write(operation, tell)

    def flushed(self, path: Path, mark: sql.FlushMark) -> None:
        """The database at ``path`` was flushed, in this process."""
        if self.source.path == path:
            self.cursors.flush(mark)
            self.mailboxes.clear()
            self.mark()

    async def clean_expired(self, on_step: Callable[[int], None], kept: int) -> int:
        """In steps.  Returns how many rows were deleted."""
        if self.clock.began_at is None:
            await self.generations.ask()
        deleted = 0
        is_callers = transaction_of_caller(self.config.database) is not None
        sweep = upkeep.Sweep((), None if is_callers or self.is_in_memory else kept)
        while not sweep.is_done:
            if is_callers:
                deleted += await self.outgoing.write(
                    lambda execute, batch: sweep.step(execute, batch.now)
                )
            else:
                step = partial(sweep.step, now=self.clock.now())
                deleted += await self.outgoing.read(step)
            on_step(sweep.seen)
        return deleted

    async def close_in_order(self) -> None:
        """Returns when all is given back; coroutines that still wait use it again at once."""
        loop = asyncio.get_running_loop()
        has_given_back = loop.create_future()
        try:
            self.close(partial(call_on, loop, settle, has_given_back))
            if transaction_of_caller(self.config.database) is None:  # whose lock it would wait for
                await has_given_back
            if is_ending():
                self.store.close()
            else:
                await asyncio.to_thread(self.store.close)  # it waits for what is under way
        finally:
            self.go_on()

    def close(self, done: Callable[[], object] = lambda: None) -> None:
        """Stops until it is used again; gives back what was claimed and not received.

        ``done`` is called when that is told, or cannot be.
        """
        self._stop()
        self.claims.requeue(partial(self.reader.acknowledge, done))

    def _stop(self) -> None:
        self._forget_use()
        self.reader.is_open = self.claims.is_open = False
        self.waiter.close()
        self.frames.close()

    def leave(self) -> None:
        """At exit: the same, and ends the memberships of this process, if the database is there."""
        # An alias may name another file by now, as when Django's test runner has ended.
        if not self.source.is_same():
            self._stop()
            return
        if self._is_used:
            # What waited for a lock, on a loop that is closed now, comes back to be told.
            self.store.submit(_nothing, _ignore)
        self.close()
        if self._is_used and self.has_joined:
            self.store.submit(partial(upkeep.leave_all, token=self.token), _ignore)
        self.store.close()

    def drop(self) -> None:
        """The layer was collected without having been closed: gives everything back.

        Waits for nothing.
        """
        # An alias may name another file by now, or a database in memory that is gone.
        if self.is_in_memory or not self.source.is_same():
            self._stop()
        else:
            self.close()
            if self.has_joined:
                self.store.persist(partial(upkeep.leave_all, token=self.token), _ignore)
        self.store.drop()

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """Those on which somebody has received."""
        return self.waiter.loops

    def pause(self) -> None:
        """Before a fork: returns when no thread of the store is inside SQLite."""
        self.store.pause()

    def resume(self) -> None:
        """After it, in the parent."""
        self.store.resume()

    def after_fork(self) -> None:
        """In a forked child: lets go of what is the parent's, and begins anew."""
        self.frames.abandon()
        self.store.abandon()
        self.waiter.abandon()
        if self.presence is not None:
            self.presence.abandon()
        self._forget_use()
        self._start()


def _nothing(execute: Execute) -> None:
    """Asks nothing of the database."""


def _ignore(outcome: Outcome[Any]) -> None:
    """Memberships end by themselves, later."""
