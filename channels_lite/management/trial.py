"""Messages to another process and back, which doctor and bench measure.

The other process is a real one, spawned with the settings of this process.  It answers each message
on the channel that the message names.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import django
from channels.layers import BaseChannelLayer
from django.utils.module_loading import import_string

from channels_lite.monitor.probe import PREFIX

__all__ = ["Trial", "layer_of", "trial"]

# Seconds that a process may take to start, and a message to come back.
TIMEOUT = 20.0


def layer_of(entry: Mapping[str, Any]) -> BaseChannelLayer:
    """A new layer, from an entry of ``CHANNEL_LAYERS``."""
    return import_string(entry["BACKEND"])(**entry.get("CONFIG", {}))


def _answer(entry: Mapping[str, Any], plain: str, ready: Any) -> None:
    """Runs in the other process, until the parent ends it."""
    django.setup()

    async def answer(layer: BaseChannelLayer, channel: str) -> None:
        while True:
            message = await layer.receive(channel)
            await layer.send(message["reply"], {"type": "answer"})

    async def work() -> None:
        layer = layer_of(entry)
        own = await layer.new_channel()
        tasks = [asyncio.ensure_future(answer(layer, channel)) for channel in (own, plain)]
        await asyncio.sleep(0)
        ready.send(own)  # a string; or an error, see below
        await asyncio.to_thread(ready.poll, None)  # until the parent closes it, or is gone
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if hasattr(layer, "close"):
            await layer.close()

    try:
        asyncio.run(work())
    except Exception as error:  # noqa: BLE001 - the parent reports it, in one line
        ready.send(ConnectionError(str(error)))


class Trial:
    """A layer here, and the channels of a layer in the other process."""

    def __init__(self, layer: BaseChannelLayer, own: str, plain: str) -> None:
        self.layer = layer
        #: The other process's process-local channel, and its plain one.
        self.own = own
        self.plain = plain

    async def round_trip(
        self, channel: str, reply: str, send: Callable[..., Awaitable[None]]
    ) -> float:
        """Seconds from ``send`` to the answer.  Raises ``TimeoutError`` after 20 s."""
        began = time.perf_counter()
        await send(channel, {"type": "question", "reply": reply})
        try:
            await asyncio.wait_for(self.layer.receive(reply), TIMEOUT)
        except asyncio.TimeoutError as error:  # another one than Python's own, before 3.11
            raise TimeoutError(f"no answer within {TIMEOUT:.0f} s") from error
        return time.perf_counter() - began

    async def latency(
        self, channel: str, count: int, send: Callable[..., Awaitable[None]] | None = None
    ) -> float:
        """Median one-way seconds of ``count`` round trips, one after the other."""
        reply = await self.layer.new_channel()
        taken = [
            await self.round_trip(channel, reply, send or self.layer.send) for _ in range(count)
        ]
        return statistics.median(taken) / 2

    async def throughput(self, count: int, senders: int) -> float:
        """Messages per second, in both directions together, of concurrent ``senders``."""

        async def work() -> None:
            await self.latency(self.own, max(1, count // senders))

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(senders)))
        return 2 * max(1, count // senders) * senders / (time.perf_counter() - began)


@asynccontextmanager
async def trial(entry: Mapping[str, Any]) -> AsyncIterator[Trial]:
    """Starts the other process, and ends it.

    Raises ``TimeoutError`` if it does not start, and ``ConnectionError`` if it fails.
    """
    plain = f"{PREFIX}trial.{uuid.uuid4().hex}"
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_answer, args=(entry, plain, there), daemon=True)
    process.start()
    there.close()
    layer = layer_of(entry)
    try:
        if not await asyncio.to_thread(here.poll, TIMEOUT):
            raise TimeoutError(f"the second process did not start within {TIMEOUT:.0f} s")
        said = here.recv()
        if isinstance(said, Exception):
            raise said
        yield Trial(layer, said, plain)
    finally:
        here.close()
        process.join(TIMEOUT)
        process.kill()
        if hasattr(layer, "close"):
            await layer.close()
