"""RECEIVE, from plain channels, where a relay is configured: their queues are the engine's.

What `claims` is for the table: as many jobs are asked for as coroutines wait here, and what nobody
here waits for any more is given back.  To be given a job is to own it.

Thread: any; jobs come on the relay's loop.  The lock is that of `claims`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from channels_lite.clock import ticks
from channels_lite.delivery.availability import CLAIMS
from channels_lite.delivery.capacity import Capacities
from channels_lite.delivery.claims import Claims
from channels_lite.delivery.stats import Stats
from channels_lite.errors import StoreUnavailable
from channels_lite.relay import InDoubt
from channels_lite.relay.connection import Relay
from channels_lite.store.sql import Claimed

__all__ = ["Jobs"]

logger = logging.getLogger(__name__)

# Seconds before a job that cannot be given back now is tried again.
TRY_AGAIN = 0.1


class Jobs(Claims):
    """What was asked for and given back."""

    def __init__(self, *, relay: Relay, capacities: Capacities, stats: Stats, **parts: Any) -> None:
        super().__init__(**parts)
        self._relay = relay
        self._capacities = capacities
        self._stats = stats
        #: Jobs have no rows; below all ids of those, so that a flush voids them.
        self._numbers = itertools.count(-1, -1)
        #: Channels of which jobs were asked for.
        self._asked: set[str] = set()

    def woken(self, signs: frozenset[int]) -> None:
        """Rows of plain channels are nobody's, with a relay."""

    def ask(self, channels: Iterable[str]) -> None:
        """Asks for as many jobs as coroutines wait on these channels."""
        channels = list(channels)
        wanted = self._mailboxes.wanted(channels) if self.is_open else {}
        for channel in channels:
            total = wanted.get(channel, 0)
            with self._lock:
                (self._asked.add if total else self._asked.discard)(channel)
            self._relay.jobs.want(channel, self._capacities.messages(channel), total)

    def take(self, channel: str, data: bytes, ttl: float) -> None:
        """A job came, for so many seconds; on the relay's loop."""
        opened = self._decrypt(data) if ttl > 0 else None
        if opened is None:
            self._stats.expired += ttl <= 0
            self.ask((channel,))  # it was nobody's job
            return
        now = self._clock.now() or self._clock.origin() + ticks()
        row = Claimed(next(self._numbers), data, now + ttl, now)
        self._mailboxes.put_claimed(channel, [(row, opened)])
        self._stats.relay_received += 1
        self._availability.worked(CLAIMS, has_found=True)
        self.requeue()

    def requeue(self, done: Callable[[], object] = lambda: None) -> None:
        """Gives back what nobody here waits for any more, and asks for no more than is wanted."""
        for channel, row in self._mailboxes.unwanted():
            ttl = row.expires_at - self._clock.now() if self._clock.now() else 0.0
            ttl = ttl or row.expires_at - row.created_at
            self._relay.spawn(partial(self._give_back, channel, row.data, ticks() + ttl))
        with self._lock:
            asked = list(self._asked)
        self.ask(asked)
        done()

    async def _give_back(self, channel: str, data: bytes, until: float) -> None:
        capacity = self._capacities.messages(channel)
        while (ttl := until - ticks()) > 0:
            put_back = partial(_put_back, channel, data, ttl, capacity)
            try:
                if await self._relay.do(put_back):
                    return
            except InDoubt as error:  # again, it might be there twice
                self._stats.relay_missed += 1
                logger.warning("a job for %s may be lost, for it could not be given back: %s",
                               channel, error)  # fmt: skip
                return
            except StoreUnavailable:
                pass  # the engine was not told
            await asyncio.sleep(TRY_AGAIN)
        self._stats.expired += 1


async def _put_back(channel: str, data: bytes, ttl: float, capacity: int | None, link: Any) -> bool:
    return bool(await link.put_back(channel, data, ttl, capacity))
