"""End to end: WebSocket clients in rooms of ten, under uvicorn with one process and with four.

A client says something, and its room hears it, itself included; measured is from its ``send()``
until it hears itself.  First at a rate that all peers bear, for the latency; then each client
speaks as soon as it has heard itself, for the throughput.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from typing import Any

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.peers import LAYERS
from benchmarks.peers import PEERS as ALL
from benchmarks.site import uvicorn
from benchmarks.stage import Figures, Stage
from benchmarks.traffic import PAYLOAD, until_silent

TITLE = "WebSocket clients in rooms of ten, under uvicorn"
COLUMNS = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "per_second": "full load: messages/s",
    "full_p99_ms": "p99 ms",
    "messages": "messages",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "p99_ms"
PEERS = [name for name in LAYERS if not ALL[name].is_old and name != "postgres"] + ["memory"]
ROLE = "benchmarks.workloads.websocket"
#: Clients of a room.
ROOM = 10


def plan(short: bool) -> dict[str, Any]:
    """At ``rate`` messages a second of all clients for ``seconds``; then ``full_seconds``."""
    if short:
        return {"rounds": 1, "rounds_others": 1, "clients": 20, "processes": [2], "rate": 20,
                "seconds": 0.5, "full_seconds": 0.3, "warm_up": 0.2}  # fmt: skip
    return {"rounds": 2, "rounds_others": 1, "clients": 200, "processes": [1, 4], "rate": 100,
            "seconds": 3.0, "full_seconds": 1.0, "warm_up": 0.1}  # fmt: skip


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """All clients are in one process; those of a room are spread over the servers."""
    figures: Figures = {}
    for processes in plan["processes"]:
        if processes > 1 and stage.peer.name == "memory":
            continue
        if processes == 1 and stage.peer.name not in ("notify", "pubsub", "memory"):
            continue
        (clients,) = stage.start(1)
        with uvicorn(stage.peer, stage.place, processes) as ports:
            clients.run(f"{ROLE}:talk", ports=ports, plan=plan)
            case = f"{processes} process{'es' * (processes > 1)}"
            figures[case] = clients.result(120)
        stage.end([clients])
    return figures


class Clients:
    """All of them, and what each has heard."""

    def __init__(self, sockets: list[Any]) -> None:
        self._sockets = sockets
        self._rooms = len(sockets) // ROOM
        self._numbers = itertools.count()
        self._heard: list[Counter[int]] = [Counter() for _ in sockets]
        self._echoes: dict[int, asyncio.Future[float]] = {}
        self._sent = [0] * self._rooms
        self.total = 0
        self._expected = -1
        self._all_heard = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._hear(index)) for index in range(len(sockets))]

    async def _hear(self, index: int) -> None:
        async for text in self._sockets[index]:
            said = json.loads(text)
            self._heard[index][said["number"]] += 1
            self.total += 1
            if self.total == self._expected:
                self._all_heard.set()
            if said["by"] == index and said["number"] in self._echoes:
                self._echoes.pop(said["number"]).set_result(time.monotonic())

    async def say(self, index: int) -> float:
        """One message of client ``index``: seconds until it has heard itself."""
        number = next(self._numbers)
        echo = self._echoes[number] = asyncio.get_running_loop().create_future()
        said = {"by": index, "number": number, "payload": PAYLOAD}
        began = time.monotonic()
        await self._sockets[index].send(json.dumps(said))
        self._sent[index % self._rooms] += 1
        return await echo - began

    async def finish(self) -> dict[str, int]:
        """Waits for what is under way; how many were not heard, or twice."""
        expected = sum(self._sent) * ROOM

        if self.total < expected:
            self._expected = expected
            await until_silent(self._all_heard.wait(), lambda: self.total)
        for task in self._tasks:
            task.cancel()
        different = sum(map(len, self._heard))
        return {
            "messages": sum(self._sent),
            "lost": expected - different,
            "twice": self.total - different,
        }


async def talk(link: Link, ports: list[int], plan: dict[str, Any]) -> dict[str, Any]:
    """Connects them all, then lets them talk."""
    from websockets.asyncio.client import connect  # noqa: PLC0415 - this workload's only

    count = plan["clients"]
    rooms = count // ROOM
    sockets = []
    for index in range(count):
        port = ports[index // rooms % len(ports)]
        room = f"room{index % rooms}-{ports[0]}"
        sockets.append(
            await connect(f"ws://127.0.0.1:{port}/{room}", compression=None, proxy=None,
                          open_timeout=30, ping_interval=None)
        )  # fmt: skip
    clients = Clients(sockets)
    # Each once: connections of the server's pools are opened, and imports done.
    await asyncio.gather(*map(clients.say, range(count)))
    steady = await at_a_rate(clients, count, plan["rate"], plan["seconds"])
    until = time.monotonic() + plan["full_seconds"]
    full: list[float] = []

    async def chatter(index: int) -> None:
        while time.monotonic() < until:
            full.append(await clients.say(index))

    began = time.monotonic()
    await asyncio.gather(*map(chatter, range(count)))
    seconds = time.monotonic() - began
    full_figures = latency_figures(full)
    found = await clients.finish()
    figures = latency_figures(steady[int(len(steady) * plan["warm_up"]) :])
    return {
        **found,
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "per_second": round(len(full) / seconds),
        "full_p99_ms": full_figures["p99_ms"],
    }


async def at_a_rate(clients: Clients, count: int, rate: float, seconds: float) -> list[float]:
    """One client after the other says something, whether or not the last was heard."""
    began = time.monotonic()
    saying = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        saying.append(asyncio.ensure_future(clients.say(number % count)))
    return list(await asyncio.gather(*saying))
