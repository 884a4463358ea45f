"""Throughput: concurrent senders in one process, one receiver in another.

Messages per second are all messages through the time from the first ``send()`` until the last is
in hand; the latencies are those of the queue that forms.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import Any

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.peers import LAYERS
from benchmarks.probe import LoopLag
from benchmarks.servers import cpu_seconds
from benchmarks.stage import Child, Figures, Stage
from benchmarks.traffic import WARM_UP, Receiver, message, prime

TITLE = "Throughput, by concurrent senders in one process"
COLUMNS = {
    "per_second": "messages/s",
    "p50_ms": "queued p50 ms",
    "p99_ms": "p99 ms",
    "lag_send_ms": "lag p99, sender",
    "lag_receive_ms": "lag p99, receiver",
    "cpu_us": "CPU us/message",
    "messages": "messages",
    "refused": "refused",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "per_second"
PEERS = LAYERS
ROLE = "benchmarks.workloads.throughput"
#: Numbers of one sending process; so numbers are different everywhere.
NUMBERS = 10_000_000
#: Seconds after which a refused sender goes on, with another message.
RETRY = 0.001


def plan(short: bool) -> dict[str, Any]:
    """Senders send for ``seconds``, or ``most`` messages, whichever is less."""
    common = {"most": 200_000, "most_polling": 3000, "most_old": 400}
    if short:
        return {
            **common,
            "rounds": 1,
            "rounds_others": 1,
            "seconds": 0.2,
            "most_old": 50,
            "senders": [10],
        }
    return {**common, "rounds": 3, "rounds_others": 1, "seconds": 0.5, "senders": [1, 10, 50, 200]}


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """All counts of senders in the same two processes."""
    receiver, sender = stage.start(2)
    return {
        str(senders): measure_case(stage, plan, [receiver], [sender], senders)
        for senders in plan["senders"]
    }


def measure_case(
    stage: Stage, plan: dict[str, Any], receivers: list[Child], senders: list[Child], tasks: int
) -> dict[str, Any]:
    """``tasks`` sending coroutines in each of ``senders``, who serve ``receivers`` in turn."""
    peer = stage.peer
    most = plan["most_old" if peer.is_old else "most_polling" if peer.is_polling else "most"]
    for receiver in receivers:
        receiver.run(f"{ROLE}:receive")
    channels = [receiver.ready() for receiver in receivers]
    for index, sender in enumerate(senders):
        sender.run(f"{ROLE}:send", channels=channels, tasks=tasks, seconds=plan["seconds"],
                   most=most // len(senders), first=index * NUMBERS)  # fmt: skip
    for sender in senders:
        sender.ready()
    server = stage.place.get(peer.server, {}).get("pid")
    server_cpu = cpu_seconds(server) if server else 0.0
    for child in [*receivers, *senders]:
        child.go()
    sent = [sender.result(90) for sender in senders]
    for index, receiver in enumerate(receivers):
        receiver.go(sum(one["counts"][index] for one in sent))
    received = [receiver.result(90) for receiver in receivers]
    server_cpu = cpu_seconds(server) - server_cpu if server else 0.0
    return summary(sent, received, server_cpu)


def summary(
    sent: list[dict[str, Any]], received: list[dict[str, Any]], server_cpu: float
) -> dict[str, Any]:
    """Of all processes together; of latencies and lags the worst process's."""
    count = sum(sum(one["counts"]) for one in sent)
    arrived = count - sum(one["lost"] for one in received)
    seconds = max(one["last"] for one in received) - min(one["first"] for one in sent)
    cpu = server_cpu + sum(one["cpu"] for one in [*sent, *received])
    figures: dict[str, Any] = {
        "per_second": round(arrived / seconds) if arrived else 0,
        "messages": count,
        "cpu_us": round(cpu / max(count, 1) * 1e6, 1),
        "refused": sum(one["refused"] for one in sent),
        "lost": sum(one["lost"] for one in received),
        "twice": sum(one["twice"] for one in received),
        "lag_send_ms": max(one["lag_send_ms"] for one in sent),
        "lag_receive_ms": max(one["lag_receive_ms"] for one in received),
    }
    for figure in ("p50_ms", "p99_ms"):
        values = [one[figure] for one in received if figure in one]
        if values:
            figures[figure] = max(values)
    return figures


async def receive(link: Link) -> dict[str, Any]:
    """Collects until it has as many as it is told after the senders' end."""
    channel = await link.layer.new_channel()
    await prime(link.layer, channel)
    receiver = Receiver(link.layer, channel)
    link.tell("ready", channel)
    await link.hear()
    lag, cpu = LoopLag(), time.process_time()
    expected = await link.hear()
    counts = await receiver.finish(expected, lag)
    cpu = time.process_time() - cpu
    figures = latency_figures(receiver.latencies)
    return {**figures, **counts, "cpu": cpu, "last": receiver.last}


async def send(
    link: Link, channels: list[str], tasks: int, seconds: float, most: int, first: int
) -> dict[str, Any]:
    """``tasks`` coroutines, each sending as fast as its sends return."""
    layer, refused = link.layer, 0
    counts = [0] * len(channels)
    numbers = itertools.count()

    async def send_on(until: float) -> None:
        nonlocal refused
        while time.monotonic() < until and (number := next(numbers)) < most:
            index = number % len(channels)
            try:
                await layer.send(channels[index], message(first + number))
            except Exception:  # noqa: BLE001 - a full channel or a locked database; it is counted
                refused += 1
                await asyncio.sleep(RETRY)
            else:
                counts[index] += 1

    async def warm_up(task: int) -> None:
        with contextlib.suppress(Exception):  # as above
            await layer.send(channels[task % len(channels)], message(WARM_UP))

    for _ in range(2):  # the second time all connections of the peer's pool are open
        await asyncio.gather(*map(warm_up, range(tasks)))
    link.tell("ready")
    await link.hear()
    lag, cpu, started = LoopLag(), time.process_time(), time.monotonic()
    await asyncio.gather(*(send_on(started + seconds) for _ in range(tasks)))
    cpu = time.process_time() - cpu
    return {
        "counts": counts, "refused": refused, "first": started, "cpu": cpu,
        "lag_send_ms": lag.stop(),
    }  # fmt: skip
