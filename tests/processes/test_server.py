"""A real ASGI server with two processes, and real WebSocket clients."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys

import pytest
from websockets.asyncio.client import connect

from tests.processes.conftest import TIMEOUT, child_environment

LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]
CLIENTS = 60


@pytest.fixture(params=LAYERS)
def server(request, folder):
    """The address and the log of a server with two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    command = [sys.executable, "-m", "uvicorn", "tests.processes.server:application",
               "--workers", "2", "--port", str(port), "--lifespan", "off"]  # fmt: skip
    environment = child_environment(
        folder, TEST_LAYER=request.param, TEST_CONFIG='{"polling_interval": 0.1}'
    )
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield f"ws://127.0.0.1:{port}/ws", log
    finally:
        process.terminate()
        process.wait(TIMEOUT)


async def connected(address: str):
    """A client, and the process that serves it; the server may still be starting."""
    while True:
        try:
            client = await connect(address, open_timeout=TIMEOUT)
        except (ConnectionError, EOFError):
            await asyncio.sleep(0.05)
            continue
        return client, int(json.loads(await client.recv())["worker"].partition(".")[0])


async def both_processes_serve(address: str) -> None:
    """Connects until it has met two processes."""
    met = set()
    while len(met) < 2:
        client, pid = await connected(address)
        await client.close()
        met.add(pid)


async def test_sixty_clients_connect_at_once(server):
    """60 simultaneous connects on two processes all succeed, and all hear what one says."""
    address, log = server
    await asyncio.wait_for(both_processes_serve(address), TIMEOUT)
    connecting = asyncio.gather(*(connected(address) for _ in range(CLIENTS)))
    clients = [client for client, _ in await asyncio.wait_for(connecting, TIMEOUT)]
    try:
        await clients[0].send(json.dumps({"hello": "all"}))
        hearing = asyncio.gather(*(client.recv() for client in clients))
        heard = await asyncio.wait_for(hearing, TIMEOUT)
        assert heard == ['{"hello": "all"}'] * CLIENTS
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    assert "locked" not in log.read_text()
    assert "Traceback" not in log.read_text()
