"""End to end: WebSocket clients in rooms of ten, under uvicorn with one process and with four.

A client says something, and its room hears it, itself included.  Measured is from its ``send()``
until it hears itself, and until the whole room does, most of which is in other processes.  First at
a rate that all peers bear, for the latency; then each client speaks as soon as it has heard itself,
for the throughput.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.peers import LAYERS
from benchmarks.peers import PEERS as ALL
from benchmarks.site import uvicorn
from benchmarks.stage import Figures, Stage
from benchmarks.traffic import GRACE, PAYLOAD, until_silent

TITLE = "WebSocket clients in rooms of ten, under uvicorn"
COLUMNS = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "room_p50_ms": "room p50 ms",
    "room_p99_ms": "p99 ms",
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
        return {"rounds": 1, "rounds_others": 1, "rounds_of_one": 1, "clients": 20,
                "processes": [1, 2], "rate": 20, "seconds": 0.5, "full_seconds": 0.3,
                "warm_up": 0.2}  # fmt: skip
    return {"rounds": 3, "rounds_others": 1, "rounds_of_one": 1, "clients": 200,
            "processes": [1, 4], "rate": 100, "seconds": 2.0, "full_seconds": 1.0,
            "warm_up": 0.1}  # fmt: skip


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """All clients are in one process; those of a room are spread over the servers."""
    figures: Figures = {}
    for processes in plan["processes"]:
        if not is_due(stage.peer.name, processes, turn < plan["rounds_of_one"]):
            continue
        with uvicorn(stage.peer, stage.place, processes) as ports:
            (clients,) = stage.start(1)
            clients.run(f"{ROLE}:talk", ports=ports, plan=plan)
            case = f"{processes} process{'es' * (processes > 1)}"
            figures[case] = clients.result(120)
        stage.end([clients])
    return figures


def is_due(peer: str, processes: int, is_time_for_one: bool) -> bool:
    """One process is for those that can be compared with ``memory``, which cannot do more."""
    if processes > 1:
        return peer != "memory"
    return is_time_for_one and peer in ("notify", "pubsub", "memory")


@dataclass(slots=True)
class Said:
    """A message, and who has not heard it yet; seconds are 0 until then."""

    began: float
    missing: set[int]
    echo: asyncio.Event
    own: float = 0.0  # seconds until who said it heard it
    room: float = 0.0  # seconds until all did


class Clients:
    """All of them, and what each has heard."""

    def __init__(self, sockets: list[Any]) -> None:
        self._sockets = sockets
        self._rooms = len(sockets) // ROOM
        self._said: list[Said] = []
        self._heard = self._twice = 0
        self._unheard = 0  # messages that somebody of the room has not heard yet
        self._all_heard = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._hear(index)) for index in range(len(sockets))]

    async def _hear(self, index: int) -> None:
        async for text in self._sockets[index]:
            now = time.monotonic()
            found = json.loads(text)
            said = self._said[found["number"]]
            self._heard += 1
            if index not in said.missing:  # of another room, if not twice
                self._twice += 1
                continue
            said.missing.remove(index)
            if index == found["by"]:
                said.own = now - said.began
                said.echo.set()
            if not said.missing:
                said.room = now - said.began
                self._unheard -= 1
                if not self._unheard:
                    self._all_heard.set()

    async def say(self, index: int) -> None:
        """One message of client ``index``; returns when it has heard itself."""
        room = set(range(index % self._rooms, len(self._sockets), self._rooms))
        number, said = len(self._said), Said(time.monotonic(), room, asyncio.Event())
        self._said.append(said)
        self._unheard += 1
        self._all_heard.clear()
        text = json.dumps({"by": index, "number": number, "payload": PAYLOAD})
        await self._sockets[index].send(text)
        await said.echo.wait()

    async def hear_all(self, talk: Awaitable[Any]) -> list[Said]:
        """What is said in ``talk``, when all have heard it or nobody hears any more."""
        first = len(self._said)
        await until_silent(talk, lambda: self._heard)
        await until_silent(self._all_heard.wait(), lambda: self._heard)
        return self._said[first:]

    async def finish(self) -> dict[str, int]:
        """How many there were, how many were not heard, and how many once too often."""
        await asyncio.sleep(GRACE)
        for task in self._tasks:
            task.cancel()
        lost = sum(len(said.missing) for said in self._said)
        return {"messages": len(self._said), "lost": lost, "twice": self._twice}


async def talk(link: Link, ports: list[int], plan: dict[str, Any]) -> dict[str, Any]:
    """Connects them all, then lets them talk."""
    clients = Clients(await connected(ports, plan["clients"]))
    everybody = range(plan["clients"])
    gc.freeze()  # or walking all sockets for garbage would be in the tail of every peer
    # Each once: connections of the server's pools are opened, and imports done.
    await clients.hear_all(asyncio.gather(*map(clients.say, everybody)))
    steady = await clients.hear_all(
        at_a_rate(clients, len(everybody), plan["rate"], plan["seconds"])
    )
    until = time.monotonic() + plan["full_seconds"]

    async def chatter(index: int) -> None:
        while time.monotonic() < until:
            await clients.say(index)

    full = await clients.hear_all(asyncio.gather(*map(chatter, everybody)))
    steady = steady[int(len(steady) * plan["warm_up"]) :]
    in_time = sum(0 < said.own <= until - said.began for said in full)
    return {
        **await clients.finish(),
        **tail("", [said.own for said in steady]),
        **tail("room_", [said.room for said in steady]),
        **tail("full_", [said.own for said in full]),
        "per_second": round(in_time / plan["full_seconds"]),
    }


def tail(name: str, seconds: list[float]) -> dict[str, object]:
    """Median and p99 of those that were heard."""
    figures = latency_figures([each for each in seconds if each])
    return {f"{name}{figure}": figures[figure] for figure in ("p50_ms", "p99_ms") if figures}


async def connected(ports: list[int], count: int) -> list[Any]:
    """A socket for each client; those of a room are on all ports in turn."""
    from websockets.asyncio.client import connect  # noqa: PLC0415 - this workload's only

    rooms = count // ROOM

    async def connect_one(index: int) -> Any:
        port = ports[index // rooms % len(ports)]
        url = f"ws://127.0.0.1:{port}/room{index % rooms}-{ports[0]}"
        return await connect(url, compression=None, proxy=None, open_timeout=30, ping_interval=None)

    sockets: list[Any] = []
    for first in range(0, count, rooms):  # one of each room at a time
        sockets += await asyncio.gather(*map(connect_one, range(first, first + rooms)))
    return sockets


async def at_a_rate(clients: Clients, count: int, rate: float, seconds: float) -> None:
    """One client after the other says something, whether or not the last was heard."""
    began = time.monotonic()
    saying = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        saying.append(asyncio.ensure_future(clients.say(number % count)))
    await asyncio.gather(*saying)
