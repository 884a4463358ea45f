"""The servers that people run: WebSockets of several processes, views and workers together."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sysconfig
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.chaos.conftest import SCALE
from tests.processes.conftest import TIMEOUT, wait_until
from tests.servers.conftest import Run, Server, free_port

MESSAGES = 200
ASGI = "tests.processes.server:application"
WSGI = "tests.processes.server:wsgi"
SERVERS: dict[str, list[str]] = {
    "daphne": ["daphne", "-b", "127.0.0.1", "-p", "{port}", ASGI],
    "uvicorn": ["uvicorn", "--workers", "2", "--lifespan", "off", "--port", "{port}", ASGI],
    "hypercorn": ["hypercorn", "-w", "2", "-b", "127.0.0.1:{port}", ASGI],
    # "asginl" is ASGI without the lifespan protocol, which Channels does not speak.
    "granian": ["granian", "--workers", "2", "--interface", "asginl", "--port", "{port}", ASGI],
    "gunicorn": ["gunicorn", "-w", "2", "-k", "uvicorn_worker.UvicornWorker",
                 "-b", "127.0.0.1:{port}", ASGI],
}  # fmt: skip
# Serves from one process; the others have two behind one port.
SINGLE = "daphne"
# From Python 3.12 on it ends only when its clients have left, whatever the application.
WAITING = "hypercorn"
# On a free-threaded Python its workers are threads of one process.
THREADED = "granian" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""


async def connected(port: str, server: Server) -> tuple[ClientConnection, str]:
    """A client, and the worker that serves it; the server may still be starting."""
    while True:
        assert server.is_running(), server.log.read_text()
        try:
            client = await connect(f"ws://127.0.0.1:{port}/ws", open_timeout=TIMEOUT)
        except (ConnectionError, EOFError):
            await asyncio.sleep(0.05)
            continue
        return client, json.loads(await client.recv())["worker"]


async def two_clients(servers: dict[str, Server]) -> list[ClientConnection]:
    """One client in each of two workers."""
    clients: dict[str, ClientConnection] = {}
    while len(clients) < 2:
        for port, server in servers.items():
            client, worker = await connected(port, server)
            if worker in clients:
                await client.close()
            else:
                clients[worker] = client
    return list(clients.values())


async def heard(client: ClientConnection, count: int) -> dict[str, list[int]]:
    """The numbers that ``client`` hears, by sender, in order; ``count``, and no more."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for _ in range(count):
        message = json.loads(await client.recv())
        numbers[message["by"]].append(message["number"])
    end = {"by": "end", "number": id(client)}
    await client.send(json.dumps(end))
    while (message := json.loads(await client.recv())) != end:
        numbers[message["by"]].append(message["number"])
    numbers.pop("end", None)  # the other client's
    return dict(numbers)


async def numbers(client: ClientConnection, count: int) -> list[int]:
    """The next ``count`` numbers that ``client`` hears."""
    return [json.loads(await client.recv())["number"] for _ in range(count)]


def serve(run: Run, name: str) -> dict[str, Server]:
    """Two processes of that server, by port."""
    ports = [free_port() for _ in range(2 if name == SINGLE else 1)]
    return {port: run(*(part.format(port=port) for part in SERVERS[name])) for port in ports}


@pytest.mark.parametrize("name", SERVERS)
async def test_clients_of_two_processes_hear_each_other(run: Run, name: str):
    """Each of two clients, served by two processes, hears all that both say, in order, once."""
    clients = await asyncio.wait_for(two_clients(serve(run, name)), TIMEOUT)

    async def say(client: ClientConnection, by: str) -> None:
        for number in range(MESSAGES):
            await client.send(json.dumps({"by": by, "number": number}))

    saying = asyncio.gather(*(say(client, by) for client, by in zip(clients, "ab", strict=True)))
    hearing = asyncio.gather(*(heard(client, 2 * MESSAGES) for client in clients))
    await asyncio.wait_for(saying, TIMEOUT)
    everything = list(range(MESSAGES))
    assert await asyncio.wait_for(hearing, TIMEOUT) == [{"a": everything, "b": everything}] * 2
    await asyncio.gather(*(client.close() for client in clients))


@pytest.mark.parametrize("name", SERVERS)
async def test_server_ends_and_leaves_nothing(run: Run, start: Any, folder: Path, name: str):
    """At SIGTERM, with clients connected, all processes end; the next one finds no name of them."""
    servers = serve(run, name)
    clients = await asyncio.wait_for(two_clients(servers), TIMEOUT)
    sidecar = folder / "default.sqlite3-wake"
    dead = {path.name for path in sidecar.iterdir() if path.name != ".upkeep"}
    assert len([token for token in dead if (sidecar / token).is_fifo()]) == (
        1 if name == THREADED else 2
    )
    for server in servers.values():
        server.signal(signal.SIGTERM)
    for client in clients:
        await asyncio.wait_for(client.close() if name == WAITING else client.wait_closed(), TIMEOUT)
    await asyncio.to_thread(wait_until, lambda: all(each.is_gone() for each in servers.values()))
    # Some servers end their processes by a signal, so that nothing at exit runs in them.
    successor = start()
    successor.do("receive", channel="jobs")
    wait_until(lambda: not dead & {path.name for path in sidecar.iterdir()})


async def test_view_under_wsgi_and_workers_reach_clients(run: Run):
    """What a sync view says under plain WSGI, and two workers repeat, two clients hear once."""
    servers = serve(run, "uvicorn")
    port = free_port()
    view = run("gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", WSGI)
    workers = [run("django", "runworker", "jobs") for _ in range(2)]
    clients = await asyncio.wait_for(two_clients(servers), TIMEOUT)

    def ask() -> None:
        for number in range(MESSAGES // 4):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/say/{number}", timeout=TIMEOUT):
                pass

    wait_until(lambda: "Booting worker" in view.log.read_text())
    hearing = asyncio.gather(*(heard(client, MESSAGES // 2) for client in clients))
    await asyncio.to_thread(ask)
    everything = list(range(MESSAGES // 4))
    for numbers in await asyncio.wait_for(hearing, TIMEOUT):
        # Two processes say them, and between two senders there is no order.
        assert (sorted(numbers["view"]), sorted(numbers["worker"])) == (everything, everything)
    await asyncio.gather(*(client.close() for client in clients))
    for server in [view, *workers]:
        server.signal(signal.SIGTERM)
    await asyncio.to_thread(wait_until, lambda: all(s.is_gone() for s in [view, *workers]))


async def test_32_clients_that_stay_miss_nothing(run: Run):
    """While others come and go, politely or not, those who stay hear all, in order, once."""
    [(port, server)] = serve(run, "uvicorn").items()
    clients = await asyncio.wait_for(two_clients({port: server}), TIMEOUT)

    async def come_and_go(visits: int) -> None:
        for visit in range(visits):
            client, _ = await connected(port, server)
            if visit % 2:
                client.transport.abort()  # as a laptop that is shut
            else:
                await client.close()

    visits = max(25, int(1_000 * SCALE))
    churn = asyncio.gather(*(come_and_go(visits) for _ in range(4)))
    for first in itertools.count(step=10):
        burst = list(range(first, first + 10))
        for number in burst:
            await clients[0].send(json.dumps({"by": "a", "number": number}))
        hearing = asyncio.gather(*(numbers(client, 10) for client in clients))
        assert await asyncio.wait_for(hearing, TIMEOUT) == [burst, burst]
        if churn.done():
            break
    await churn
    assert [await heard(client, 0) for client in clients] == [{}, {}]
    await asyncio.gather(*(client.close() for client in clients))
