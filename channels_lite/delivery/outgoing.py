"""SEND: messages that leave this process, and the transactions of writes.

A message to another process goes through the `outbox`: as a frame if `frames` can hand it over, and
otherwise, as for a plain channel, as a row.  A message sent inside ``atomic()`` on the layer's
database is a row in the caller's transaction.

Thread: any.  Each loop has an outbox; one lock guards the outboxes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from channels_lite.clock import Clock
from channels_lite.delivery.backpressure import Admission
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.frames import FrameSender
from channels_lite.delivery.outbox import Operation, Outbox, T
from channels_lite.failpoints import reach
from channels_lite.loops import call_on, settle
from channels_lite.names import token_of
from channels_lite.serializers import BaseMessageSerializer
from channels_lite.store import Execute, Outcome, Store, sql
from channels_lite.store.connection import Source
from channels_lite.store.django import (
    run_in_transaction_of,
    transaction_of_caller,
)
from channels_lite.store.occupancy import Occupancy
from channels_lite.wake.hooks import hooks

__all__ = ["Outgoing"]

# Minimum seconds between two checks of the file, made before writes.
TIDY_EVERY = 1.0


class Outgoing:
    """What this process sends and writes."""

    def __init__(
        self,
        *,
        source: Source,
        store: Store,
        serializer: BaseMessageSerializer,
        clock: Clock,
        occupancy: Occupancy,
        frames: FrameSender,
        cursors: Cursors,
        begin_generation: Callable[[sql.Batch], None],
        nudge: Callable[[], None],
    ) -> None:
        self._source = source
        self._store = store
        self._serializer = serializer
        self._clock = clock
        self._occupancy = occupancy
        self._frames = frames
        self._cursors = cursors
        #: Called with a batch that has found another generation, or ids that start again.
        self._begin_generation = begin_generation
        #: Looks at once, if this process polls.
        self._nudge = nudge
        self._next_tidy = 0.0
        self._lock = threading.Lock()
        self._outboxes: dict[asyncio.AbstractEventLoop, Outbox] = {}

    def send(self, envelopes: list[sql.Envelope]) -> int | Awaitable[int]:
        """Sends these envelopes of one message.  See `Outbox.send`."""
        return self._outbox().send(self.encrypted(envelopes))

    async def insert(self, envelopes: list[sql.Envelope]) -> int:
        """Like `send`, as rows in the caller's transaction."""
        return await self.write(partial(sql.insert_all, envelopes=self.encrypted(envelopes)))

    def encrypted(self, envelopes: list[sql.Envelope]) -> list[sql.Envelope]:
        """The envelopes of one message, encrypted if the layer has keys."""
        if envelopes and self._serializer.crypter is not None:
            data = self._serializer.encrypt(envelopes[0].data)
            for envelope in envelopes:
                envelope.data = data
        return envelopes

    async def write(
        self, operation: Operation[T], and_then: Callable[[T], None] = lambda value: None
    ) -> T:
        """Runs ``operation`` in a transaction, possibly the caller's.  Then calls ``and_then``."""
        alias = self._source.alias
        caller = transaction_of_caller(alias)
        if caller is None:
            value = await self._outbox().write(operation)
            and_then(value)
            return value

        def work(execute: Execute) -> tuple[T, sql.Batch]:
            batch = self._batch(self._occupancy.unremembered())
            return operation(execute, batch), batch

        def on_commit(done: tuple[T, sql.Batch]) -> None:
            self._put_batch(done[1])
            and_then(done[0])

        return (await run_in_transaction_of(caller, alias, work, on_commit))[0]

    async def read(self, query: Callable[[Execute], T]) -> T:
        """The result of ``query``, on a connection of the store."""
        loop = asyncio.get_running_loop()
        found: list[Outcome[T]] = []
        future: asyncio.Future[None] | None = None

        def read() -> None:
            if future is not None:
                settle(future)

        def done(outcome: Outcome[T]) -> None:
            found.append(outcome)
            call_on(loop, read)

        self._store.submit(query, done)
        if not found:  # it was not read at once
            future = loop.create_future()
            await future
        return found[0].result()

    def _outbox(self) -> Outbox:
        now = time.monotonic()
        if now >= self._next_tidy:
            # In a process that only sends, no other code notices that the file was replaced, or
            # that processes are gone.
            self._next_tidy = now + TIDY_EVERY
            self._store.tidy()
            self._frames.forget_stale()
        loop = asyncio.get_running_loop()
        outbox = self._outboxes.get(loop)
        if outbox is None:
            outbox = Outbox(loop, self._store, self._batch_of, self._frames, self._put_batch)
            with self._lock:
                # async_to_sync may create thousands of short-lived loops.
                known = {each: box for each, box in self._outboxes.items() if not each.is_closed()}
                self._outboxes = known | {loop: outbox}
        return outbox

    def _batch_of(self, is_alone: bool) -> sql.Batch:
        return self._batch(self._occupancy, is_alone=is_alone)

    def _batch(self, occupancy: Occupancy, *, is_alone: bool = False) -> sql.Batch:
        now = self._clock.now_or_origin()  # another generation may have begun since the call
        admission = Admission(self._frames.backpressure, now)
        return sql.Batch(now, occupancy, admission, is_alone, *self._cursors.reached)

    def _put_batch(self, batch: sql.Batch) -> None:
        """W3, after each commit of this layer.  For other commits, the hooks do it."""
        if batch.wakes_all:
            hooks.wake_all(self._source.sidecar_bytes)
        if batch.woken or batch.wakes_all:
            self.wake({token_of(name): name for name in batch.woken}.values())
        if not batch.inserted:
            return
        if batch.is_rewound or batch.generation != self._clock.generation:
            self._begin_generation(batch)
        batch.admission.committed()
        for name, row in batch.inserted.items():
            if "!" in name:
                self._frames.put_row(name, row)
                self._cursors.has_put(batch.generation or 0, row)
        self.wake(batch.inserted)

    def wake(self, names: Iterable[str]) -> None:
        """Wakes the processes that receive on these non-local names."""
        reach("after_commit")
        self.pass_on(names)
        self._nudge()

    def pass_on(self, names: Iterable[str]) -> None:
        """Wakes other processes that receive on these names, for rows that are left to them."""
        for name in names:
            hooks.wake(self._source.sidecar_bytes, name)
