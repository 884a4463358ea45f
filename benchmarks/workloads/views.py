"""Views: ``async_to_sync(layer.group_send)(...)`` in the threads of a WSGI server.

Eight threads send to a group of ten members in another process; ``async_to_sync`` runs each call in
a thread and a loop of its own.  There is no HTTP in it, which costs all peers the same.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.child import Link
from benchmarks.peers import LAYERS
from benchmarks.probe import LoopLag
from benchmarks.servers import cpu_seconds
from benchmarks.stage import Figures, Stage
from benchmarks.traffic import WARM_UP, Receiver, message, prime

TITLE = "Views that call async_to_sync(group_send), in eight threads, to ten members"
COLUMNS = {
    "per_second": "calls/s",
    "cpu_us": "CPU us/call",
    "messages": "calls",
    "refused": "refused",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "per_second"
# The pools of channels-postgres belong to a loop each: it opens connections until none are left.
PEERS = [name for name in LAYERS if name != "postgres"]
ROLE = "benchmarks.workloads.views"


def plan(short: bool) -> dict[str, Any]:
    """Threads call for ``seconds``."""
    common = {"threads": 8, "members": 10, "rounds_others": 1}
    if short:
        return {**common, "rounds": 1, "seconds": 0.3}
    return {**common, "rounds": 2, "seconds": 1.0}


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """One process of members, one of views."""
    receiver, sender = stage.start(2)
    receiver.run(f"{ROLE}:receive", members=plan["members"])
    group = receiver.ready()
    sender.run(f"{ROLE}:send", group=group, threads=plan["threads"], seconds=plan["seconds"])
    sender.ready()
    server = stage.place.get(stage.peer.server, {}).get("pid")
    server_cpu = cpu_seconds(server) if server else 0.0
    receiver.go()
    sender.go()
    sent = sender.result(60)
    receiver.go(sent["count"])
    found = receiver.result(60)
    server_cpu = cpu_seconds(server) - server_cpu if server else 0.0
    cpu = sent["cpu"] + found["cpu"] + server_cpu
    return {
        "8 threads": {
            "per_second": round(sent["count"] / sent["seconds"]),
            "messages": sent["count"],
            "refused": sent["refused"],
            "cpu_us": round(cpu / max(sent["count"], 1) * 1e6),
            "lost": found["lost"],
            "twice": found["twice"],
        }
    }


async def receive(link: Link, members: int) -> dict[str, float]:
    """All members; each gets every message."""
    layer = link.layer
    channels = [await layer.new_channel() for _ in range(members)]
    await prime(layer, channels[0])
    group = "views-" + re.sub("[^a-z0-9]", "", channels[0])[-40:]
    for channel in channels:
        await layer.group_add(group, channel)
    receivers = [Receiver(layer, channel) for channel in channels]
    link.tell("ready", group)
    await link.hear()
    cpu = time.process_time()
    count = await link.hear()
    found = await asyncio.gather(*(each.finish(count, LoopLag()) for each in receivers))
    counts = {figure: sum(one[figure] for one in found) for figure in ("lost", "twice")}
    return {**counts, "cpu": time.process_time() - cpu}


async def send(link: Link, group: str, threads: int, seconds: float) -> dict[str, Any]:
    """The views' process."""
    from asgiref.sync import async_to_sync  # noqa: PLC0415 - with Django

    layer, numbers = link.layer, itertools.count()

    def view(until: float) -> tuple[int, int]:
        sent = refused = 0
        while time.monotonic() < until:
            number = next(numbers)
            try:
                async_to_sync(layer.group_send)(group, message(number))
                sent += 1
            except Exception:  # noqa: BLE001 - a locked database; it is counted
                refused += 1
        return sent, refused

    with ThreadPoolExecutor(threads) as pool:
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(
                loop.run_in_executor(pool, async_to_sync(layer.group_send), group, message(WARM_UP))
                for _ in range(threads)
            )
        )
        link.tell("ready")
        await link.hear()
        cpu, began = time.process_time(), time.monotonic()
        done = await asyncio.gather(
            *(loop.run_in_executor(pool, view, began + seconds) for _ in range(threads))
        )
    return {
        "count": sum(sent for sent, _ in done),
        "refused": sum(refused for _, refused in done),
        "seconds": time.monotonic() - began,
        # Of the process: a thread that has ended, as each call's does, is in no /proc/PID/task.
        "cpu": time.process_time() - cpu,
    }
