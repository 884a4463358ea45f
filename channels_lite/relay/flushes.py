"""A flush, from the one who asks for it to all others, and back.

Nobody has a list of processes.  So each that hears of it says so at once, and again when it has
done it; whoever has asked waits a moment for the first, and then for the second of the same.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from typing import NamedTuple

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import DEADLINE
from channels_lite.relay.host import Host
from channels_lite.relay.wire import Flushed, Heard, encode

__all__ = ["Flushes"]

# Seconds within which all answer who hear of it.
ANSWERS = 0.05


class Flushes:
    """Those under way that this process has asked for, by id."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._flushes: dict[str, _Answers] = {}

    async def ask(self) -> None:
        """Deletes what the engine keeps, and tells everybody.

        Returns when all have done it that can be heard, or after `DEADLINE`.  Raises
        ``StoreUnavailable``.
        """
        await self._host.do(lambda link: link.clear())
        flush = Flushed(self._host.node, uuid.uuid4().hex, self._host.token)
        answers = self._flushes[flush.id] = _Answers(set(), set(), asyncio.Event())
        told = [(self._host.subjects.everybody(), encode(flush))]
        try:
            await self._host.do(lambda link: link.publish(told, ()))
            # As long as it takes all to say that they are there; nobody has a list of them.
            await asyncio.sleep(max(ANSWERS, 3 * self._host.round_trip))
            deadline = time.monotonic() + DEADLINE
            while answers.heard - answers.done and time.monotonic() < deadline:
                answers.changed.clear()
                with suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(answers.changed.wait(), DEADLINE)
        finally:
            del self._flushes[flush.id]

    async def came(self, flush: Flushed) -> None:
        """Another process asks for it."""
        if flush.token == self._host.token:
            return
        await self._answer(flush, is_done=False)
        await self._host.receiver.flushed(flush)
        await self._answer(flush, is_done=True)

    async def _answer(self, flush: Flushed, *, is_done: bool) -> None:
        heard = encode(Heard(flush.id, self._host.token, is_done))
        parcels = [(self._host.subjects.process(flush.token), heard)]
        with suppress(StoreUnavailable):
            await self._host.do(lambda link: link.publish(parcels, ()))

    def heard(self, heard: Heard) -> None:
        """An answer to one of ours."""
        answers = self._flushes.get(heard.id)
        if answers is not None:
            (answers.done if heard.is_done else answers.heard).add(heard.token)
            answers.changed.set()


class _Answers(NamedTuple):
    """To a flush: who has heard of it, and who has done it."""

    heard: set[str]
    done: set[str]
    changed: asyncio.Event
