"""What roles share: the message, and a receiver that counts.

A message is ``{"type", "sent", "number", "payload"}``; ``sent`` is ``time.monotonic()`` just before
``send()``, on the clock that all processes of a machine share.  Numbers below 0 are warm-up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.probe import LoopLag

__all__ = ["PAYLOAD", "WARM_UP", "Receiver", "message", "prime", "until_silent"]

WARM_UP = -1
PAYLOAD = "x" * 100
#: Seconds without a message after which the rest counts as lost.
SILENCE = 3.0
#: Seconds in which a message may still come twice; more than a polling interval.
GRACE = 0.15


def message(number: int, payload: str = PAYLOAD) -> dict[str, Any]:
    """A message that is sent now."""
    return {"type": "x", "sent": time.monotonic(), "number": number, "payload": payload}


async def until_silent(work: Awaitable[Any], progress: Callable[[], int]) -> bool:
    """Runs ``work`` to its end: True; or until ``progress`` stands still for ``SILENCE`` s."""
    task = asyncio.ensure_future(work)
    seen = -1
    while not task.done() and seen != (seen := progress()):
        await asyncio.wait([task], timeout=SILENCE)
    if task.done():
        task.result()  # raises what it raised
        return True
    task.cancel()
    return False


async def prime(layer: Any, channel: str) -> None:
    """Sends to itself until it comes: then its peer's connections and listeners are up."""
    task = asyncio.ensure_future(layer.receive(channel))
    while not task.done():
        await layer.send(channel, message(WARM_UP))
        await asyncio.wait([task], timeout=0.5)
    task.result()


class Receiver:
    """A task that receives on one channel, in a plain loop, and keeps numbers and latencies."""

    def __init__(self, layer: Any, channel: str):
        self.latencies: list[float] = []
        self.last = 0.0  # time.monotonic() at the last message
        self._numbers: list[int] = []
        self._layer, self._channel = layer, channel
        self._expected = -1
        self._complete = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    @property
    def numbers(self) -> list[int]:
        """Of the messages so far, in the order in which they came."""
        return self._numbers

    async def _run(self) -> None:
        receive, channel, clock = self._layer.receive, self._channel, time.monotonic
        while True:
            found = await receive(channel)
            now = clock()
            if found["number"] < 0:
                continue
            self.latencies.append(now - found["sent"])
            self._numbers.append(found["number"])
            self.last = now
            if len(self._numbers) == self._expected:
                self._complete.set()

    async def finish(self, expected: int, lag: LoopLag) -> dict[str, Any]:
        """Waits for ``expected`` messages in all, and ends the probe ``lag`` with them.

        How many did not come, and how many twice; and the lag's p99 in ms.
        """
        self._expected = expected
        if len(self._numbers) < expected:
            await until_silent(self._complete.wait(), lambda: len(self._numbers))
        lag_ms = lag.stop()
        await asyncio.sleep(GRACE)
        if self._task.done():
            self._task.result()  # raises what it raised
        self._task.cancel()
        different = len(set(self._numbers))
        return {
            "lost": expected - different,
            "twice": len(self._numbers) - different,
            "lag_receive_ms": lag_ms,
        }
