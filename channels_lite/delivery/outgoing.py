"""SEND: what stays in this process, what leaves it, and what is written in whose transaction.

To a channel of this process: into its mailbox.  To another process: through the `outbox`, by a
frame if `frames` can hand it over, else, as to a plain channel, by a row.  What is sent inside
``atomic()`` on the layer's database is a row of the caller's transaction.

Thread: any.  One lock guards the outboxes, of which each loop has one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable

from channels_lite.clock import Clock
from channels_lite.delivery.arrivals import Arrivals, slices
from channels_lite.delivery.backpressure import Admission
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.frames import FrameSender
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.mailboxes import Mailboxes
from channels_lite.delivery.outbox import Operation, Outbox, T
from channels_lite.failpoints import reach
from channels_lite.loops import PER_ITERATION, call_on, settle
from channels_lite.serializers import BaseMessageSerializer
from channels_lite.store import Execute, Outcome, Store, sql
from channels_lite.store.connection import Source
from channels_lite.store.django import (
    run_in_transaction_of,
    tell_committed,
    transaction_of_caller,
)
from channels_lite.store.occupancy import Occupancy
from channels_lite.wake.hooks import hooks

__all__ = ["Outgoing"]

# Seconds between two looks at the file, while there is something to write.
TIDY_EVERY = 1.0


class Outgoing:
    """What this process sends and writes."""

    def __init__(
        self,
        *,
        source: Source,
        store: Store,
        token: str,
        serializer: BaseMessageSerializer,
        clock: Clock,
        occupancy: Occupancy,
        frames: FrameSender,
        mailboxes: Mailboxes,
        cursors: Cursors,
        arrivals: Arrivals,
        begin_generation: Callable[[int], None],
        nudge: Callable[[], None],
    ) -> None:
        self._source = source
        self._store = store
        self._names_end = f"{token}!"
        self._serializer = serializer
        self._clock = clock
        self._occupancy = occupancy
        self._frames = frames
        self._mailboxes = mailboxes
        self._cursors = cursors
        self._arrivals = arrivals
        self._begin_generation = begin_generation
        #: Looks at once, where this process polls.
        self._nudge = nudge
        #: Messages handed over within this process, so that no other coroutine had its turn.
        self._handed_over = 0
        self._next_tidy = 0.0
        self._lock = threading.Lock()
        self._outboxes: dict[asyncio.AbstractEventLoop, Outbox] = {}

    async def send(self, envelopes: Iterable[sql.Envelope]) -> int:
        """Sends messages.  Returns how many channels and members missed one.

        Raises ``StoreUnavailable`` if those that need a row cannot be stored.
        """
        tell_committed()
        missed = 0
        away = []
        for envelope in envelopes:
            if self._is_ours(envelope.name):
                missed += await self._hand_over(envelope)
            else:
                away.append(envelope)
        if away:
            missed += await self._outbox().send(self.encrypted(away))
        return missed

    def _is_ours(self, name: str) -> bool:
        """Whether this process itself receives there, and has read what it was sent before."""
        if not name.endswith(self._names_end):
            return False
        last = self._frames.last_row(name)
        if last > self._cursors.seen(name):
            return False
        if last or self._arrivals.are_waiting:
            self._arrivals.deliver(None)  # what was sent before is on its way into the mailbox
        return True

    async def _hand_over(self, envelope: sql.Envelope) -> int:
        message = Message(0, envelope.data, envelope.expires_at, envelope.created_at)
        if envelope.channel:
            return await self._offer(envelope.channel, message)
        missed = 0
        for channels in slices(envelope.name, envelope.recipients):
            full = self._mailboxes.put(channels, message, self._clock.now())
            if full and self._mailboxes.have_receivers(full):
                # Those that wait have been called, and make room when they have their turn.
                await self.yield_loop()
                full = self._mailboxes.put(full, message, self._clock.now())
            missed += len(full)
            self._handed_over += len(channels)
            if self._handed_over >= PER_ITERATION:
                await self.yield_loop()
        return missed

    async def _offer(self, channel: str, message: Message) -> int:
        if not self._mailboxes.offer(channel, message, message.created_at):
            if not self._mailboxes.have_receivers((channel,)):
                return 1
            await self.yield_loop()
            if not self._mailboxes.offer(channel, message, self._clock.now()):
                return 1
        self._handed_over += 1
        if self._handed_over >= PER_ITERATION:
            await self.yield_loop()
        return 0

    async def yield_loop(self) -> None:
        """Lets the other coroutines run: nothing else in handing over does."""
        self._handed_over = 0
        await asyncio.sleep(0)

    def encrypted(self, envelopes: list[sql.Envelope]) -> list[sql.Envelope]:
        """The envelopes of one message as they leave the process."""
        if envelopes and self._serializer.crypter is not None:
            data = self._serializer.encrypt(envelopes[0].data)
            for envelope in envelopes:
                envelope.data = data
        return envelopes

    async def write(
        self, operation: Operation[T], and_then: Callable[[T], None] = lambda value: None
    ) -> T:
        """Commits ``operation``, or has the caller's transaction do it; then calls ``and_then``."""
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
        """What ``query`` finds, by a connection of the store's own."""
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
            # A process that only sends has nobody else to notice that the file was replaced, or
            # that processes are gone.
            self._next_tidy = now + TIDY_EVERY
            self._store.tidy()
            self._frames.forget_stale()
        loop = asyncio.get_running_loop()
        outbox = self._outboxes.get(loop)
        if outbox is None:
            outbox = Outbox(loop, self._store, self._batch_of, self._frames.send, self._put_batch)
            with self._lock:
                # Loops come and go by the thousand under async_to_sync.
                known = {each: box for each, box in self._outboxes.items() if not each.is_closed()}
                self._outboxes = known | {loop: outbox}
        return outbox

    def _batch_of(self, is_alone: bool) -> sql.Batch:
        return self._batch(self._occupancy, is_alone=is_alone)

    def _batch(self, occupancy: Occupancy, *, is_alone: bool = False) -> sql.Batch:
        now = self._clock.now()
        return sql.Batch(now, occupancy, Admission(self._frames.backpressure, now), is_alone)

    def _put_batch(self, batch: sql.Batch) -> None:
        """W3, after each commit of ours; the hooks do it for everybody else's."""
        if not batch.inserted:
            return
        if batch.generation != self._clock.generation:
            self._begin_generation(batch.generation or 0)
        batch.admission.committed()
        for name, row in batch.inserted.items():
            self._frames.put_row(name, row)
        self.wake(batch.inserted)

    def wake(self, names: Iterable[str]) -> None:
        """Wakes those that receive on these non-local names."""
        reach("after_commit")
        for name in names:
            hooks.wake(self._source.sidecar_bytes, name)
        self._nudge()
