"""Within one process: a waiting receiver task, and one message at a time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.peers import LAYERS
from benchmarks.probe import LoopLag
from benchmarks.stage import Figures, Stage
from benchmarks.traffic import message, prime, until_silent

TITLE = "Send and receive within one process"
COLUMNS = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "max_ms": "max ms",
    "lag_ms": "lag p99",
    "messages": "messages",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "p50_ms"
PEERS = ["memory", *LAYERS]


def plan(short: bool) -> dict[str, Any]:
    """It ends after ``count`` messages or ``seconds``, whichever comes first."""
    if short:
        return {"rounds": 1, "rounds_others": 1, "warm_up": 20, "count": 100, "seconds": 0.2}
    return {"rounds": 3, "rounds_others": 2, "warm_up": 200, "count": 3000, "seconds": 1.0}


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """One process."""
    (child,) = stage.start(1)
    warm_up = 1 if stage.peer.is_polling else plan["warm_up"]
    child.run("benchmarks.workloads.inprocess:send_and_receive", warm_up=warm_up,
              count=plan["count"], seconds=plan["seconds"])  # fmt: skip
    return {"one by one": child.result(60)}


async def send_and_receive(link: Link, warm_up: int, count: int, seconds: float) -> dict[str, Any]:
    """From just before ``send()`` until the receiving task has the value."""
    layer = link.layer
    channel = await layer.new_channel()
    await prime(layer, channel)
    lag, has_come = LoopLag(), asyncio.Event()
    latencies: list[float] = []
    twice = 0

    async def receive() -> None:
        nonlocal twice
        while True:
            found = await layer.receive(channel)
            now = time.monotonic()
            if found["number"] == len(latencies):
                latencies.append(now - found["sent"])
                has_come.set()
            else:
                twice += found["number"] >= 0

    async def send() -> None:
        until = time.monotonic() + seconds
        while len(latencies) < warm_up + count and time.monotonic() < until:
            has_come.clear()
            await layer.send(channel, message(len(latencies)))
            await has_come.wait()

    receiving = asyncio.ensure_future(receive())
    is_complete = await until_silent(send(), lambda: len(latencies))
    receiving.cancel()
    return {
        **latency_figures(latencies[warm_up:]),
        "messages": len(latencies) - warm_up,
        "lost": int(not is_complete),
        "twice": twice,
        "lag_ms": lag.stop(),
    }
