"""Offered load: the same number of messages per second for all peers.

In `throughput` a faster peer sends more, so its loops are busier.  Here each peer gets 5000
messages per second from one process to another, and the lag of the loops can be compared.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.child import Link
from benchmarks.probe import LoopLag
from benchmarks.stage import Figures, Stage
from benchmarks.traffic import WARM_UP, message
from benchmarks.workloads.throughput import summary

TITLE = "Loop lag at 5000 messages per second"
COLUMNS = {
    "lag_receive_ms": "lag p99, receiver",
    "lag_send_ms": "lag p99, sender",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_us": "CPU us/message, without server",
    "per_second": "messages/s",
    "messages": "messages",
    "refused": "refused",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "lag_receive_ms"
#: Without those that poll, which cannot carry it.
PEERS = ["notify", "pubsub", "redis"]
ROLE = "benchmarks.workloads.offered"
#: Seconds between two bursts.
GAP = 0.002


def plan(short: bool) -> dict[str, Any]:
    """Messages per second, for so many seconds."""
    return {"rounds": 1 if short else 3, "rounds_others": 1, "rate": 5000,
            "seconds": 0.2 if short else 2.0}  # fmt: skip


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """One stream."""
    receiver, sender = stage.start(2)
    receiver.run("benchmarks.workloads.throughput:receive")
    channel = receiver.ready()
    sender.run(f"{ROLE}:send", channel=channel, rate=plan["rate"], seconds=plan["seconds"])
    sender.ready()
    receiver.go()
    sender.go()
    sent = sender.result(90)
    receiver.go(sum(sent["counts"]))
    return {f"{plan['rate']} per second": summary([sent], [receiver.result(90)], 0.0)}


async def send(link: Link, channel: str, rate: int, seconds: float) -> dict[str, Any]:
    """``rate * GAP`` messages every ``GAP`` seconds, or as fast as it can."""
    layer, count, refused = link.layer, 0, 0
    await layer.send(channel, message(WARM_UP))
    link.tell("ready")
    await link.hear()
    lag, cpu, started = LoopLag(), time.process_time(), time.monotonic()
    due = started
    while due < started + seconds:
        for _ in range(int(rate * GAP)):
            try:
                await layer.send(channel, message(count))
            except Exception:  # noqa: BLE001 - a full channel; it is counted
                refused += 1
            else:
                count += 1
        due += GAP
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    return {
        "counts": [count], "refused": refused, "first": started,
        "cpu": time.process_time() - cpu, "lag_send_ms": lag.stop(),
    }  # fmt: skip
