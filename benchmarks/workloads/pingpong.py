"""Request and reply: a message to the other process, and its answer; one exchange at a time."""

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

TITLE = "Request and reply between two processes"
COLUMNS = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "max_ms": "max ms",
    "lag_ask_ms": "lag p99, asking",
    "lag_answer_ms": "lag p99, answering",
    "exchanges": "exchanges",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "p50_ms"
PEERS = LAYERS
ROLE = "benchmarks.workloads.pingpong"


def plan(short: bool) -> dict[str, Any]:
    """It ends after ``count`` exchanges or ``seconds``, whichever comes first."""
    if short:
        return {"rounds": 1, "rounds_others": 1, "warm_up": 10, "count": 50, "seconds": 0.3}
    return {"rounds": 3, "rounds_others": 2, "warm_up": 20, "count": 500, "seconds": 1.0}


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """One process answers, one asks."""
    answering, asking = stage.start(2)
    answering.run(f"{ROLE}:answer")
    channel = answering.ready()
    # A polling layer would warm up for seconds, with nothing to win.
    warm_up = 1 if stage.peer.is_polling else plan["warm_up"]
    asking.run(f"{ROLE}:ask", channel=channel, warm_up=warm_up, count=plan["count"],
               seconds=plan["seconds"])  # fmt: skip
    figures = asking.result(60)
    answering.go()
    figures["lag_answer_ms"] = answering.result()
    return {"100 B": figures}


async def answer(link: Link) -> float:
    """Sends each message back to its ``reply_to``, until it is told to stop."""
    layer = link.layer
    channel = await layer.new_channel()
    await prime(layer, channel)

    async def serve() -> None:
        while True:
            found = await layer.receive(channel)
            if found["number"] >= 0:
                await layer.send(found["reply_to"], found)

    serving, lag = asyncio.ensure_future(serve()), LoopLag()
    link.tell("ready", channel)
    await link.hear()
    if serving.done():
        serving.result()  # raises what it raised
    serving.cancel()
    return lag.stop()


async def ask(link: Link, channel: str, warm_up: int, count: int, seconds: float) -> dict[str, Any]:
    """The time from ``send()`` until the answer is in hand; what is silent for long is lost."""
    layer = link.layer
    own = await layer.new_channel()
    await prime(layer, own)
    lag = LoopLag()
    times: list[float] = []
    twice = 0

    async def exchange() -> None:
        nonlocal twice
        until = time.monotonic() + seconds
        while len(times) < warm_up + count and time.monotonic() < until:
            asked = {**message(len(times)), "reply_to": own}
            await layer.send(channel, asked)
            while (found := await layer.receive(own))["number"] != asked["number"]:
                twice += 0 <= found["number"] < asked["number"]
            times.append(time.monotonic() - asked["sent"])

    is_complete = await until_silent(exchange(), lambda: len(times))
    figures = latency_figures(times[warm_up:])
    return {
        **figures,
        "exchanges": len(times) - warm_up,
        "lost": int(not is_complete),
        "twice": twice,
        "lag_ask_ms": lag.stop(),
    }
