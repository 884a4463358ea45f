"""RECEIVE from plain channels with a relay: their queues are in the engine.

It is the counterpart of `claims`.  It asks for as many jobs as coroutines wait, and requeues jobs
for which no coroutine waits any more.  A delivered job belongs to this process.

Thread: any.  Its state is that of `claims` and `relay.wanted`.
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
from channels_lite.errors import StoreUnavailable
from channels_lite.relay import InDoubt
from channels_lite.relay.relay import Relay
from channels_lite.store.sql import Claimed

__all__ = ["Jobs"]

logger = logging.getLogger(__name__)

# Seconds before requeuing a job is tried again.
TRY_AGAIN = 0.1


class Jobs(Claims):
    """Asks for jobs, and requeues them."""

    def __init__(self, *, relay: Relay, capacities: Capacities, **parts: Any) -> None:
        super().__init__(**parts)
        self._relay = relay
        self._capacities = capacities
        #: Jobs have no rows.  Their numbers are below all ids, so that a flush voids them.
        self._numbers = itertools.count(-1, -1)

    def woken(self, signs: frozenset[int]) -> None:
        """With a relay, rows of plain channels are not read."""

    def wait(self, channel: str, *, has_turn: bool) -> None:
        """Each coroutine that waits asks for a job."""
        self.ask((channel,))

    def ask(self, channels: Iterable[str]) -> None:
        """Asks for as many jobs as coroutines wait on these channels."""
        for channel in channels:
            capacity = self._capacities.messages(channel)
            self._relay.jobs.want(channel, capacity, partial(self._wanted, channel))

    def _wanted(self, channel: str) -> int:
        return self._mailboxes.wanted((channel,)).get(channel, 0) if self.is_open else 0

    def take(self, channel: str, data: bytes, ttl: float) -> None:
        """Takes a job with ``ttl`` seconds to live.  Any thread."""
        opened = self._decrypt(data) if ttl > 0 else None
        if opened is None:
            self._stats.expired += ttl <= 0
            self.ask((channel,))  # the coroutine still waits
            return
        now = self._clock.now_or_origin()
        row = Claimed(next(self._numbers), data, now + ttl, now)
        is_wanted = self._mailboxes.put_claimed(channel, [(row, opened)])
        self._stats.relay_received += 1
        self._availability.worked(CLAIMS, has_found=True)
        if not is_wanted:
            self.requeue()

    def requeue(self, done: Callable[[], object] = lambda: None) -> None:
        """Requeues jobs that no coroutine waits for, and asks for no more than needed."""
        for channel, row in self._mailboxes.unwanted():
            ttl = row.expires_at - self._clock.now() if self._clock.now() else 0.0
            ttl = ttl or row.expires_at - row.created_at
            self._relay.spawn(partial(self._give_back, channel, row.data, ticks() + ttl))
        self._relay.jobs.want_again()
        done()

    async def _give_back(self, channel: str, data: bytes, until: float) -> None:
        capacity = self._capacities.messages(channel)
        while (ttl := until - ticks()) > 0:
            put_back = partial(_put_back, channel, data, ttl, capacity)
            try:
                if await self._relay.connection.do(put_back):
                    return
            except InDoubt as error:  # a second try could duplicate the job
                self._stats.relay_missed += 1
                logger.warning("a job for %s may be lost, because it could not be requeued: %s",
                               channel, error)  # fmt: skip
                return
            except StoreUnavailable:
                pass  # the engine has not received it
            await asyncio.sleep(TRY_AGAIN)
        self._stats.expired += 1


async def _put_back(channel: str, data: bytes, ttl: float, capacity: int | None, link: Any) -> bool:
    return bool(await link.put_back(channel, data, ttl, capacity))
