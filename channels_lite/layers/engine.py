"""The life of a layer in a process: it is flushed, cleaned, closed, forked and dropped.

Its parts are in `parts`.  `process` calls it at forks and at exit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from channels_lite import clock, process
from channels_lite.layers.parts import Parts
from channels_lite.loops import call_on, is_ending, settle
from channels_lite.store import Execute, Outcome, sql, upkeep
from channels_lite.store.django import open_connections, transaction_of_caller
from channels_lite.wake.hooks import attach_django, attach_when_used, hooks

__all__ = ["Engine"]


class Engine(Parts):
    """What is done with all parts together.  It has no state of its own."""

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        process.add(self)
        # Later connections are hooked when they are opened.
        for thread, connection in open_connections(self.config.database):
            attach = attach_django if thread == threading.get_ident() else attach_when_used
            attach(connection)

    async def get_ready(self) -> None:
        """Called before a channel of this process gets its name."""

    async def flush(self) -> None:
        """See `base.BaseSQLiteChannelLayer.flush`; the same applies to the methods below."""
        if self.clock.began_at is None:
            await self.generations.ask()
        boot, began_at = clock.boot_id(), self.clock.origin()

        def operation(execute: Execute, batch: sql.Batch) -> sql.FlushMark:
            with batch.transaction(execute):
                upkeep.flush(execute, clock.ticks(), boot, began_at)
                return sql.table(execute).flushed

        def tell(flushed: sql.FlushMark) -> None:
            for other in process.members(Engine):  # layers of this process learn it at once
                other.flushed(self.source.path, flushed)
            hooks.wake_all(self.source.sidecar_bytes)

        await self.outgoing.write(operation, tell)

    def flushed(self, path: Path, mark: sql.FlushMark) -> None:
        """The database at ``path`` was flushed, in this process."""
        if self.source.path == path:
            self.cursors.flush(mark)
            if self.histories is not None:
                self.histories.flushed()
            self.mailboxes.clear()
            self.mark()

    def forget_membership(self, group: str, channel: str, but: int) -> None:
        """``channel`` has joined a group with a history; see `Histories.forget`."""
        if self.histories is not None:
            self.histories.forget(group, channel, but)

    async def clean_expired(self, on_step: Callable[[int], None], kept: int) -> int:
        """Works in steps.  Returns how many rows were deleted."""
        if self.clock.began_at is None:
            await self.generations.ask()
        deleted = 0
        is_callers = transaction_of_caller(self.config.database) is not None
        kept_pages = None if is_callers or self.is_in_memory else kept
        sweep = upkeep.Sweep((), kept_pages, self.limits, is_in_transaction=is_callers)
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
        """Returns when everything is released.  Waiting coroutines then use the layer again."""
        loop = asyncio.get_running_loop()
        has_given_back = loop.create_future()
        try:
            self.close(partial(call_on, loop, settle, has_given_back))
            if transaction_of_caller(self.config.database) is None:  # else it waits for its lock
                await has_given_back
            if is_ending():
                self.store.close()
            else:
                await asyncio.to_thread(self.store.close)  # it waits for running work
        finally:
            self.go_on()

    def close(self, done: Callable[[], object] = lambda: None) -> None:
        """Stops until the next use.  Requeues claimed messages that were not received.

        Calls ``done`` when the table was told, or cannot be.
        """
        self._stop()
        self.claims.requeue(partial(self.reader.acknowledge, done))

    def _stop(self) -> None:
        self._forget_use()
        self.reader.is_open = self.claims.is_open = False
        self.waiter.close()
        self.frames.close()

    def leave(self) -> None:
        """At exit: closes, and ends the memberships of this process, if the database is there."""
        # The alias may name another file now, for example after Django's test runner has ended.
        if not self.source.is_same():
            self._stop()
            return
        if self._is_used:
            # Work that waited for a lock on a loop that is closed now gets its outcome.
            self.store.submit(_nothing, _ignore)
        self.close()
        if self._is_used and self.has_joined:
            self.store.submit(partial(upkeep.leave_all, token=self.token), _ignore)
        self.store.close()

    def drop(self) -> None:
        """The layer was garbage-collected without being closed: releases everything.

        Waits for nothing.
        """
        # The alias may name another file now, or an in-memory database that is gone.
        if self.is_in_memory or not self.source.is_same():
            self._stop()
        else:
            self.close()
            if self.has_joined:
                self.store.persist(partial(upkeep.leave_all, token=self.token), _ignore)
        self.store.drop()

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """The loops on which a coroutine has received."""
        return self.waiter.loops

    def pause(self) -> None:
        """Before a fork: returns when no thread of the store is inside SQLite."""
        self.store.pause()

    def resume(self) -> None:
        """After a fork, in the parent."""
        self.store.resume()

    def after_fork(self) -> None:
        """In a forked child: abandons the parent's resources, and starts again."""
        self.frames.abandon()
        self.store.abandon()
        if open_connections(self.config.database):  # of the application
            self.source.hold_log()
        self.waiter.abandon()
        if self.presence is not None:
            self.presence.abandon()
        self._forget_use()
        self._start()


def _nothing(execute: Execute) -> None:
    """Runs no statement."""


def _ignore(outcome: Outcome[Any]) -> None:
    """If it failed, memberships expire later."""
