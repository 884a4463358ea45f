"""Plain channels in Redis: a list of jobs, and a list of the processes that wait for one.

One script puts a job: it publishes it to the first waiting process that still subscribes, and
otherwise appends it to the list, if there is room.  Another script takes jobs, and adds the process
to the waiting list.  Both use Redis's clock.  So the list holds jobs only while no process waits.
A job costs its sender one round trip, and its worker at most one.

Thread: any loop that may use the link; jobs come on any thread.  One lock guards all state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Published, Settings, confirmed, failed, outcome
from channels_lite.relay.redis.pipeline import Pipeline, script
from channels_lite.relay.redis.scripts import PUT, TAKE

__all__ = ["Jobs"]

# Milliseconds for which somebody counts as waiting who has not said so again.
WAITING = 30_000


class Jobs:
    """Owns the numbers of jobs for which this process waits."""

    def __init__(
        self, settings: Settings, pipeline: Pipeline, came: Callable[[str, bytes, float], None]
    ) -> None:
        self._pipeline = pipeline
        #: Hands a job to the layer.
        self._came = came
        self._token = settings.token
        self._keys = f"{settings.prefix}:"
        #: The start of the subjects to which jobs are published.
        self._subjects = f"{settings.prefix}.j."
        #: That of this process.
        self.subject = f"{self._subjects}{self._token}"
        self._lock = threading.RLock()
        #: By plain channel: jobs that we are entered for.
        self._entered: dict[str, int] = {}

    def _queue(self, channel: str) -> list[str]:
        """Its two keys."""
        return [f"{self._keys}q:{{{channel}}}", f"{self._keys}w:{{{channel}}}"]

    async def put(
        self, channel: str, data: bytes, ttl: float, capacity: int | None, *, is_first: bool
    ) -> bool:
        """By `PUT`.  False: it is full."""
        milliseconds = max(1, int(ttl * 1000))
        what = self._subjects, channel, data, milliseconds, capacity or 0, int(is_first)
        return bool(await self._pipeline.run(PUT, self._queue(channel), *what))

    def want(self, channel: str, total: int) -> Published | None:
        """By `TAKE`, if it is not what we are entered for.  See `Link`."""
        with self._lock:
            if self._entered.get(channel, 0) == total:
                return None
            return self._enter(channel, total)

    async def renew(self) -> None:
        """Enters again, because a script may have removed the entry."""
        for channel in list(self._entered):
            with self._lock:
                count = self._entered.get(channel, 0)
                entering = self._enter(channel, count) if count else None
            if entering is not None:
                await outcome(entering)

    def _enter(self, channel: str, total: int) -> Published:
        """Under the lock, so that the last number is also the last one that Redis gets."""
        self._entered[channel] = total
        # A delivered job belongs to this process, so it is taken even if nobody waits any more.
        taking: Published = Future()
        what = "", self._token, total, WAITING
        command = script(TAKE, self._queue(channel), *what)
        self._pipeline.write([(command, partial(self._taken, channel, taking))])
        return taking

    def _taken(
        self, channel: str, taking: Published, found: Any, error: StoreUnavailable | None
    ) -> None:
        if error is not None:
            with self._lock:
                self._entered.pop(channel, None)
            failed(taking, error)
            return
        for ttl, data in zip(found[::2], found[1::2], strict=True):
            self._take(channel, ttl, data)
        confirmed(taking)

    def take(self, payload: bytes) -> None:
        """Takes a job that was published to this process."""
        ttl, _, rest = payload.partition(b" ")
        channel, _, data = rest.partition(b" ")
        self._take(channel.decode(), ttl, data)

    def _take(self, channel: str, ttl: bytes, data: bytes) -> None:
        with self._lock:
            self._entered[channel] = max(0, self._entered.get(channel, 0) - 1)
        self._came(channel, data, int(ttl) / 1000)
