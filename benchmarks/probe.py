"""Loop lag: by how much a layer makes the other coroutines of its loop wait.

Facts: a coroutine sleeps ``INTERVAL`` and notes by how much it woke too late.  asyncio rounds the
time-out of epoll up to the next millisecond.
So we: read an idle loop's p99 of 1.1 to 1.2 ms as none at all, and compare peers, not digits.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.figures import quantile

__all__ = ["INTERVAL", "LoopLag"]

#: Seconds; the same for all peers.
INTERVAL = 0.003


class LoopLag:
    """Runs from its construction on, on the running loop."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            due = time.monotonic() + INTERVAL
            await asyncio.sleep(INTERVAL)
            self._lags.append(time.monotonic() - due)

    def restart(self) -> None:
        """Forgets what the warm-up cost."""
        self._lags.clear()

    def stop(self) -> float:
        """The p99 in ms."""
        self._task.cancel()
        return round(quantile(sorted(self._lags), 0.99) * 1e3, 3) if self._lags else 0.0
