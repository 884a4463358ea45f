"""A flush of all processes, and their answers.

There is no list of processes.  So each process answers when it receives the flush, and again when
it has done it.  The process that asks waits a moment for the first answers, and then for the second
answers of the same processes.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from typing import NamedTuple

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import outcome
from channels_lite.relay.deadline import DEADLINE
from channels_lite.relay.host import Host
from channels_lite.relay.wire import Flushed, Heard, encode

__all__ = ["Flushes"]

# Seconds within which processes answer.
ANSWERS = 0.05


class Flushes:
    """Owns the flushes that this process has begun, by id."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._flushes: dict[str, _Answers] = {}

    async def ask(self) -> None:
        """Deletes the messages and memberships in the engine, and tells all processes.

        Returns when all processes that answer have flushed, or after `DEADLINE`.  Raises
        ``StoreUnavailable``.
        """
        await self._host.connection.do(lambda link: link.clear())
        flush = Flushed(self._host.node, uuid.uuid4().hex, self._host.token)
        answers = self._flushes[flush.id] = _Answers(set(), set(), asyncio.Event())
        told = [(self._host.subjects.everybody(), encode(flush))]
        try:
            await self._host.connection.do(lambda link: outcome(link.publish(told, ())))
            # The time that all processes need to answer, because there is no list of them.
            await asyncio.sleep(max(ANSWERS, 3 * self._host.connection.round_trip))
            deadline = time.monotonic() + DEADLINE
            while answers.heard - answers.done and time.monotonic() < deadline:
                answers.changed.clear()
                with suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(answers.changed.wait(), DEADLINE)
        finally:
            del self._flushes[flush.id]

    async def came(self, flush: Flushed) -> None:
        """Flushes for another process."""
        if flush.token == self._host.token:
            return
        await self._answer(flush, is_done=False)
        await self._host.receiver.flushed(flush)
        await self._answer(flush, is_done=True)

    async def _answer(self, flush: Flushed, *, is_done: bool) -> None:
        heard = encode(Heard(flush.id, self._host.token, is_done))
        parcels = [(self._host.subjects.process(flush.token), heard)]
        with suppress(StoreUnavailable):
            await self._host.connection.do(lambda link: outcome(link.publish(parcels, ())))

    def heard(self, heard: Heard) -> None:
        """Takes an answer to a flush of this process."""
        answers = self._flushes.get(heard.id)
        if answers is not None:
            (answers.done if heard.is_done else answers.heard).add(heard.token)
            answers.changed.set()


class _Answers(NamedTuple):
    """The processes that have received a flush, and those that have done it."""

    heard: set[str]
    done: set[str]
    changed: asyncio.Event
