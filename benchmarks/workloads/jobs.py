"""Jobs: workers on one plain channel, most of them idle.

One sender, 200 messages a second, which one worker can handle alone.  The processor time is that of
all workers and of the server, so it shows what workers cost that wait beside the one which works.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.peers import LAYERS
from benchmarks.servers import cpu_seconds
from benchmarks.stage import Figures, Stage
from benchmarks.traffic import WARM_UP, Receiver, message, prime

TITLE = "Jobs on a plain channel, 200 per second, by workers"
COLUMNS = {
    "cpu_us": "CPU us/job, workers",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "messages": "jobs",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "cpu_us"
PEERS = LAYERS
ROLE = "benchmarks.workloads.jobs"
CHANNEL = "jobs"
#: Seconds after the last job in which it may still arrive, or arrive twice.
GRACE = 0.5


def plan(short: bool) -> dict[str, Any]:
    """Jobs, seconds between two, and the numbers of workers."""
    if short:
        return {"rounds": 1, "rounds_others": 1, "count": 40, "gap": 0.005, "workers": [1, 2]}
    return {"rounds": 3, "rounds_others": 1, "count": 400, "gap": 0.005, "workers": [1, 8]}


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """Each number of workers in new processes."""
    return {
        f"{number} worker{'s' * (number > 1)}": measure_case(stage, plan, number)
        for number in plan["workers"]
    }


def measure_case(stage: Stage, plan: dict[str, Any], number: int) -> dict[str, Any]:
    """One stream of jobs."""
    sender, *workers = children = stage.start(number + 1)
    for worker in workers:
        worker.run(f"{ROLE}:work")
        worker.ready()
    sender.run(f"{ROLE}:send", count=plan["count"], gap=plan["gap"])
    sender.ready()
    server = stage.place.get(stage.peer.server, {}).get("pid")
    server_cpu = cpu_seconds(server) if server else 0.0
    for child in [*workers, sender]:
        child.go()
    sender.result(90)
    for worker in workers:
        worker.go()
    found = [worker.result() for worker in workers]
    server_cpu = cpu_seconds(server) - server_cpu if server else 0.0
    stage.end(children)
    numbers = [each for one in found for each in one["numbers"]]
    cpu = server_cpu + sum(one["cpu"] for one in found)
    return {
        **latency_figures([each for one in found for each in one["latencies"]]),
        "cpu_us": round(cpu / plan["count"] * 1e6, 1),
        "messages": plan["count"],
        "lost": plan["count"] - len(set(numbers)),
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
    await asyncio.sleep(GRACE)
    cpu = time.process_time() - cpu
    return {"cpu": cpu, "numbers": receiver.numbers, "latencies": receiver.latencies}


async def send(link: Link, count: int, gap: float) -> None:
    """A job every ``gap`` seconds."""
    await link.layer.send(CHANNEL, message(WARM_UP))
    link.tell("ready")
    await link.hear()
    due = time.monotonic()
    for number in range(count):
        await link.layer.send(CHANNEL, message(number))
        due += gap
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await asyncio.sleep(GRACE)
