"""Idle: what a process costs whose coroutines wait and get nothing.

Each count of waiting channels is a process of its own, all measured in the same seconds; the
server's share is of all of them together.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.child import Link
from benchmarks.peers import LAYERS
from benchmarks.resources import resident_mib, used
from benchmarks.stage import Figures, Stage
from benchmarks.traffic import prime

TITLE = "A process that waits and gets nothing, by channels it waits on"
COLUMNS = {
    "cpu_ms": "CPU ms/s",
    "switches": "switches/s",
    "rss_mib": "RSS MiB",
    "server_cpu_ms": "server, CPU ms/s",
}
HEADLINE = "cpu_ms"
PEERS = LAYERS
ROLE = "benchmarks.workloads.idle"


def plan(short: bool) -> dict[str, Any]:
    """``seconds`` hold two of the notify layer's fallback looks; others do nothing as rare."""
    if short:
        return {
            "rounds": 1, "rounds_others": 1, "channels": [1, 10], "seconds": 0.5,
            "seconds_others": 0.5, "settle": 0.2, "most_old": 1000,
        }  # fmt: skip
    return {
        "rounds": 1, "rounds_others": 1, "channels": [1, 100, 500, 1000, 10_000], "seconds": 10.2,
        "seconds_others": 3.0, "settle": 1.0, "most_old": 1000,
    }  # fmt: skip


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """The parent reads /proc before and after; the children sleep."""
    peer = stage.peer
    is_limited = peer.is_old or peer.server == "postgres"
    counts = [n for n in plan["channels"] if not is_limited or n <= plan["most_old"]]
    waiting = stage.start(len(counts))
    for child, channels in zip(waiting, counts, strict=True):
        child.run(f"{ROLE}:wait", channels=channels)
    for child in waiting:
        child.ready(120)
    time.sleep(plan["settle"])
    server = stage.place.get(peer.server, {}).get("pid")
    pids = [child.pid for child in waiting]
    is_first = peer.name in ("notify", "pubsub")
    began = time.monotonic()
    before = [used(pid) for pid in pids]
    server_before = used(server) if server else used()
    time.sleep(plan["seconds" if is_first else "seconds_others"])
    after = [used(pid) for pid in pids]
    server_after = used(server) if server else used()
    seconds = time.monotonic() - began
    figures: Figures = {}
    for channels, pid, then, now in zip(counts, pids, before, after, strict=True):
        spent = now.since(then)
        figures[f"{channels:,}".replace(",", " ")] = {
            "cpu_ms": round(spent.cpu_seconds / seconds * 1e3, 3),
            "switches": round(spent.switches / seconds, 2),
            "rss_mib": resident_mib(pid),
            "server_cpu_ms": round(
                server_after.since(server_before).cpu_seconds / seconds * 1e3, 3
            ),
        }
    return figures


async def wait(link: Link, channels: int) -> None:
    """Waits on that many channels until it is killed."""
    await prime(link.layer, await link.layer.new_channel())
    tasks = [
        asyncio.ensure_future(link.layer.receive(await link.layer.new_channel()))
        for _ in range(channels)
    ]
    await asyncio.wait(tasks, timeout=0.5)
    link.tell("ready")
    await link.hear()
