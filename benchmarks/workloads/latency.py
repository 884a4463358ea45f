"""One-way latency: from ``send()`` in one process to the value in hand in another.

The sender waits a gap after each message, so there is never a queue.
"""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.floors import RECEIVE, SEND
from benchmarks.peers import DEFAULTS, FLOORS, LAYERS, Peer
from benchmarks.probe import LoopLag
from benchmarks.stage import Child, Figures, Stage
from benchmarks.traffic import PAYLOAD, WARM_UP, Receiver, message, prime

TITLE = "One-way latency, by payload"
COLUMNS = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "max_ms": "max ms",
    "lag_send_ms": "lag p99, sender",
    "lag_receive_ms": "lag p99, receiver",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "p50_ms"
PEERS = [*FLOORS, *LAYERS, *DEFAULTS]
ROLE = "benchmarks.workloads.latency"
SIZES = {"100 B": 100, "1 kB": 1000, "16 kB": 16_000, "256 kB": 256_000, "1 MiB": 2**20}


def plan(short: bool) -> dict[str, Any]:
    """Case -> messages, and seconds between two."""
    if short:
        cases = {"100 B": [50, 0.004], "16 kB": [10, 0.004]}
        return {
            "rounds": 1,
            "rounds_others": 1,
            "rounds_of_sizes": 1,
            "warm_up": 0.1,
            "polling_count": 30,
            "cases": cases,
        }
    cases = {
        "100 B": [600, 0.004],
        "1 kB": [60, 0.004],
        "16 kB": [60, 0.004],
        "256 kB": [20, 0.02],
        "1 MiB": [10, 0.05],
    }
    return {
        "rounds": 3,
        "rounds_others": 2,
        "rounds_of_sizes": 1,
        "warm_up": 0.1,
        "polling_count": 120,
        "cases": cases,
    }


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """The sizes in order, in the same two processes; floors and bare set-ups at 100 B only."""
    receiver, sender = stage.start(2)
    figures: Figures = {}
    has_sizes = stage.peer.backend and not stage.peer.is_bare and turn < plan["rounds_of_sizes"]
    for case, (count, gap) in plan["cases"].items():
        if case != "100 B" and not has_sizes:
            continue
        if stage.peer.is_polling:
            count = min(count, plan["polling_count"])  # noqa: PLW2901
        figures[case] = measure_case(receiver, sender, stage.peer, SIZES[case], count, gap, plan)
    return figures


def measure_case(
    receiver: Child,
    sender: Child,
    peer: Peer,
    size: int,
    count: int,
    gap: float,
    plan: dict[str, Any],
) -> dict[str, Any]:
    """One size."""
    warm_up = int(count * plan["warm_up"])
    kind = "layer" if peer.backend else "floor"
    receiver.run(f"{ROLE}:receive_{kind}", count=count, warm_up=warm_up)
    channel = receiver.ready()
    sender.run(f"{ROLE}:send_{kind}", channel=channel, count=count, gap=gap, size=size)
    lag = sender.result(60)
    receiver.go()
    found: dict[str, Any] = receiver.result(60)
    return {**found, "lag_send_ms": lag, "messages": count}


async def receive_layer(link: Link, count: int, warm_up: int) -> dict[str, Any]:
    """Tells its channel, and collects."""
    channel = await link.layer.new_channel()
    await prime(link.layer, channel)
    receiver = Receiver(link.layer, channel)
    lag = LoopLag()
    link.tell("ready", channel)
    await link.hear()
    counts = await receiver.finish(count, lag)
    figures = latency_figures(receiver.latencies[warm_up:], quantiles=True)
    return {**figures, **counts}


async def send_layer(link: Link, channel: str, count: int, gap: float, size: int) -> float:
    """One message every ``gap`` seconds."""
    layer, payload = link.layer, PAYLOAD[:1] * size
    await layer.send(channel, message(WARM_UP, payload))
    lag = LoopLag()
    for number in range(count):
        await layer.send(channel, message(number, payload))
        await asyncio.sleep(gap)
    return lag.stop()


async def receive_floor(link: Link, count: int, warm_up: int) -> dict[str, Any]:
    """The floor's own receiver, with the same probe beside it."""
    lag = LoopLag()
    latencies = await RECEIVE[link.peer.name](
        link.place["folder"], count, lambda: link.tell("ready")
    )
    await link.hear()
    figures = latency_figures(latencies[warm_up:], quantiles=True)
    return {**figures, "lost": 0, "twice": 0, "lag_receive_ms": lag.stop()}


async def send_floor(link: Link, channel: None, count: int, gap: float, size: int) -> float:
    """The floor's own sender; ``channel`` and ``size`` are those of a layer, and not used."""
    lag = LoopLag()
    await SEND[link.peer.name](link.place["folder"], count, gap)
    return lag.stop()
