"""SEND: messages that a loop sends in one iteration go out together.

The first message goes at once, as a frame or as a row, and those within a moment after it go in the
next iteration.  Those to processes that listen are handed over as frames, in one datagram for each
process.  Messages to a process whose socket is full wait for `room`, in order.  The rest, and every
other write, is one transaction (group commit).  Writes that arrive while it waits for a lock go
into the next one.  Frames wait for no transaction.

A transaction for each message had a quarter of the throughput.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from channels_lite.delivery.frames import FrameSender
from channels_lite.delivery.room import Room
from channels_lite.loops import PER_ITERATION, call_on, settle
from channels_lite.names import token_of
from channels_lite.store import Execute, Outcome, Store, sql
from channels_lite.store.sql import Batch, Envelope

__all__ = ["Operation", "Outbox"]

T = TypeVar("T")

# Seconds within which a message may belong to the same iteration as the one before.
TOGETHER = 0.0002

#: One of the writes of a transaction; called again if the database was locked.
Operation = Callable[[Execute, Batch], T]


class _Write(msgspec.Struct, Generic[T], eq=False):
    operation: Operation[T]
    envelopes: Sequence[Envelope] = ()
    outcome: Outcome[T] | None = None
    #: What its coroutine waits for; None: it does not wait, or not yet.
    future: asyncio.Future[None] | None = None

    async def result(self, loop: asyncio.AbstractEventLoop) -> T:
        if self.outcome is None:
            self.future = loop.create_future()
            await self.future
        return self.outcome.result()  # type: ignore[union-attr]

    @property
    def is_cancelled(self) -> bool:
        return self.future is not None and self.future.cancelled()

    def settle(self) -> None:
        if self.future is not None:
            settle(self.future)

    def waits_only_for(self, tokens: Collection[str]) -> bool:
        """Whether all its unsettled envelopes are for these processes."""
        return all(
            envelope.is_settled or token_of(envelope.name) in tokens for envelope in self.envelopes
        )


class Outbox:
    """The writes of one loop, on its thread, so without a lock."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        batch: Callable[[bool], Batch],
        frames: FrameSender,
        put: Callable[[Batch], None],
    ) -> None:
        self._loop = loop
        self._store = store
        self._batch = batch
        self._hand_over = frames.send
        #: Called with each batch that was committed.
        self._put = put
        self._is_sending = False
        #: Messages handed over at once since `_send`; and until when others follow together.
        self._in_a_row = 0
        self._together_until = 0.0
        self._to_send: list[_Write[int]] = []
        #: Writes that wait for room; they come before ``_to_send``.
        self._blocked: list[_Write[int]] = []
        self._room = Room(loop, frames.hold, frames.let_go, frames.give_up, self._send)
        self._done: deque[_Write[Any]] = deque()
        self._waiting: list[_Write[Any]] = []
        self._is_finishing = False  # more writes complete in the next iteration
        self._is_open = False  # a transaction is running, or about to begin

    def send(self, envelopes: Sequence[Envelope]) -> int | Awaitable[int]:
        """Hands over or commits messages, with others.

        Returns how many channels and members missed one; or, if that is not known yet, what to
        await for it.  Raises ``StoreUnavailable`` if those that need a row cannot be stored.
        """
        now = time.monotonic()
        is_first = now >= self._together_until and not self._is_sending and not self._blocked
        full: Collection[str] = ()
        if is_first:
            self._together_until = now + TOGETHER
            self._in_a_row += 1
            if self._in_a_row >= PER_ITERATION:
                self._send_soon()
            if envelopes[0].recipients or len(envelopes) > 1:  # else for a plain channel
                full = self._hand_over(envelopes)
                missed = _missed(envelopes)
                if missed is not None:
                    return missed
        write = _Write(partial(sql.insert_all, envelopes=envelopes), envelopes)
        if is_first and not full and not self._is_open:
            self._is_open = True
            self._waiting.append(write)
            self._commit()
            # The next one at once lets other coroutines run, because a commit takes long.
            self._together_until = time.monotonic() + TOGETHER
        else:
            self._to_send.append(write)
            self._send_soon()
        return self._sent(write) if write.outcome is None else write.outcome.result()

    async def _sent(self, write: _Write[int]) -> int:
        try:
            return await write.result(self._loop)
        except asyncio.CancelledError:
            if self._blocked and all(each.is_cancelled for each in self._blocked):
                self._send()  # the loop may stop soon
            raise

    async def write(self, operation: Operation[T]) -> T:
        """Commits ``operation``, with others.  Raises what it raises, or ``StoreUnavailable``.

        If it is cancelled while it waits for a lock, it is not committed later.
        """
        write = _Write(operation)
        self._waiting.append(write)
        if not self._is_open:
            self._is_open = True
            self._loop.call_soon(self._commit)
        return await write.result(self._loop)

    def _send_soon(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._is_sending = False
        self._in_a_row = 0
        self._together_until = 0.0
        if self._to_send or self._blocked:
            self._send_all()
        if self._waiting and not self._is_open:
            self._is_open = True
            self._commit()

    def _send_all(self) -> None:
        writes = [write for write in self._blocked + self._to_send if not write.is_cancelled]
        self._blocked, self._to_send = [], []
        full = self._hand_over(
            [each for write in writes for each in write.envelopes if not each.is_settled]
        )
        for write in writes:
            missed = _missed(write.envelopes)
            if missed is not None:
                write.outcome = Outcome(missed)
                self._done.append(write)
            elif full and write.waits_only_for(full):
                self._blocked.append(write)
            else:
                self._waiting.append(write)
        self._room.watch(full if self._blocked else set())
        self._finish_later()

    def _finish_later(self) -> None:
        if self._done and not self._is_finishing:
            self._finish()

    def _finish(self) -> None:
        """Completes finished writes, a limited number in each iteration."""
        for _ in range(min(PER_ITERATION, len(self._done))):
            self._done.popleft().settle()
        self._is_finishing = bool(self._done)
        if self._is_finishing:
            self._loop.call_soon(self._finish)

    def _commit(self) -> None:
        writes, self._waiting = self._waiting, []
        is_alone = len(writes) == 1 and len(writes[0].envelopes) <= 1

        def work(execute: Execute) -> tuple[list[Any], Batch]:
            batch = self._batch(is_alone)
            values = [
                None if write.is_cancelled else write.operation(execute, batch) for write in writes
            ]
            return values, batch

        def done(outcome: Outcome[tuple[list[Any], Batch]]) -> None:
            if outcome.value is not None:
                self._put(outcome.value[1])
            call_on(self._loop, self._committed, writes, outcome)

        size = 0
        for write in writes:
            for envelope in write.envelopes:
                size += 0 if envelope.is_settled else len(envelope.data)
        (self._store.submit if is_alone else self._store.transact)(work, done, size=size)

    def _committed(
        self, writes: list[_Write[Any]], outcome: Outcome[tuple[list[Any], Batch]]
    ) -> None:
        values = [None] * len(writes) if outcome.value is None else outcome.value[0]
        for write, value in zip(writes, values, strict=True):
            write.outcome = Outcome(value, outcome.error)
            if write.future is not None:
                self._done.append(write)
        self._finish_later()
        self._is_open = bool(self._waiting)
        if self._waiting:
            self._loop.call_soon(self._commit)


def _missed(envelopes: Iterable[Envelope]) -> int | None:
    """How many channels miss the message; None while some envelopes are unsettled."""
    missed = 0
    for envelope in envelopes:
        if not envelope.is_settled:
            return None
        missed += envelope.is_refused
    return missed
