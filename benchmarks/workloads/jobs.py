"""Jobs: workers on one plain channel, most of them idle; and as many jobs as they take.

One sender, 200 messages per second, which one worker can handle alone.  The processor time is that
of all workers and of the server, so it shows what idle workers cost.
Then one process sends from several coroutines, which wait a moment when the channel is full.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from channels.exceptions import ChannelFull

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.peers import LAYERS
from benchmarks.servers import cpu_seconds
from benchmarks.stage import Figures, Stage
from benchmarks.traffic import WARM_UP, Receiver, message, prime

TITLE = "Jobs on a plain channel, by workers: 200 per second, or all that they take"
COLUMNS = {
    "cpu_us": "CPU us/job, workers",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "per_second": "jobs/s",
    "messages": "jobs",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "cpu_us"
PEERS = LAYERS
ROLE = "benchmarks.workloads.jobs"
CHANNEL = "jobs"
#: Seconds without a job after which no more come, once or twice.
GRACE = 0.5
#: Coroutines that send all that the workers take; and how long each waits at a full channel.
SENDERS = 10
PAUSE = 0.001


def plan(short: bool) -> dict[str, Any]:
    """Seconds of each stream, jobs per second of the first one, and the numbers of workers."""
    return {"rounds": 1 if short else 3, "rounds_others": 1, "seconds": 0.2 if short else 2.0,
            "rate": 200, "workers": [1, 2] if short else [1, 8]}  # fmt: skip


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """Each number of workers in new processes."""
    figures = {}
    for number in plan["workers"]:
        name = f"{number} worker{'s' * (number > 1)}"
        figures[name] = measure_case(stage, plan["seconds"], number, plan["rate"])
        figures[f"{name}, all"] = measure_case(stage, plan["seconds"], number, None)
    return figures


def measure_case(stage: Stage, seconds: float, number: int, rate: int | None) -> dict[str, Any]:
    """One stream of jobs.  Without a rate, of all that the workers take."""
    sender, *workers = children = stage.start(number + 1)
    for worker in workers:
        worker.run(f"{ROLE}:work")
        worker.ready()
    sender.run(f"{ROLE}:send", seconds=seconds, rate=rate)
    sender.ready()
    server = stage.place.get(stage.peer.server, {}).get("pid")
    server_cpu = cpu_seconds(server) if server else 0.0
    for child in [*workers, sender]:
        child.go()
    sent = sender.result(90)
    for worker in workers:
        worker.go()
    found = [worker.result() for worker in workers]
    server_cpu = cpu_seconds(server) - server_cpu if server else 0.0
    stage.end(children)
    numbers = [each for one in found for each in one["numbers"]]
    cpu = server_cpu + sum(one["cpu"] for one in found)
    count, took = sent["count"], max(one["last"] for one in found) - sent["first"]
    return {
        **latency_figures([each for one in found for each in one["latencies"]]),
        "cpu_us": round(cpu / count * 1e6, 1),
        "per_second": round(len(set(numbers)) / took, 1),
        "messages": count,
        "lost": count - len(set(numbers)),
        "twice": len(numbers) - len(set(numbers)),
    }


async def work(link: Link) -> dict[str, Any]:
    """Receives jobs until it is told that no more come."""
    await prime(link.layer, await link.layer.new_channel())
    receiver = Receiver(link.layer, CHANNEL)
    link.tell("ready")
    await link.hear()
    cpu = time.process_time()
    await link.hear()
    numbers = receiver.numbers
    is_silent = False
    while not is_silent:
        seen = len(numbers)
        await asyncio.sleep(GRACE)
        is_silent = len(numbers) == seen
    return {
        "cpu": time.process_time() - cpu,
        "numbers": numbers,
        "latencies": receiver.latencies,
        "last": receiver.last,
    }


async def send(link: Link, seconds: float, rate: int | None) -> dict[str, Any]:
    """Sends for so many seconds.  Returns how many jobs, and when it began."""
    layer, count = link.layer, 0
    await layer.send(CHANNEL, message(WARM_UP))
    link.tell("ready")
    await link.hear()
    first = time.monotonic()
    until = first + seconds

    async def send_all() -> None:
        nonlocal count
        while time.monotonic() < until:
            number, count = count, count + 1
            await send_one(layer, number)

    if rate is None:
        await asyncio.gather(*(send_all() for _ in range(SENDERS)))
    else:
        due = first
        for count in range(1, int(seconds * rate) + 1):
            await layer.send(CHANNEL, message(count))
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    return {"count": count, "first": first}


async def send_one(layer: Any, number: int) -> None:
    """Waits while the channel is full."""
    while True:
        try:
            await layer.send(CHANNEL, message(number))
        except ChannelFull:
            await asyncio.sleep(PAUSE)
        else:
            return
