"""Clients on different server processes hear each other, the view and the worker."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, DEMO, Demo, children_of, free_port, is_alive, running, start
from websockets.asyncio.client import ClientConnection, connect

# They share the servers of `demo`.
pytestmark = pytest.mark.xdist_group("example")

TRIES = 500


async def read(client: ClientConnection, kind: str, **values: Any) -> dict[str, Any]:
    """The next message of this kind and these values; skips others."""

    async def search() -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(await client.recv())
            if message.get("type") == kind and values.items() <= message.items():
                return message

    return await asyncio.wait_for(search(), DEADLINE)


async def say(client: ClientConnection, name: str, text: str) -> None:
    await client.send(json.dumps({"type": "say", "name": name, "text": text}))


@asynccontextmanager
async def client_at(
    demo: Demo, room: str, not_at: int = 0, after: str = ""
) -> AsyncIterator[tuple[ClientConnection, int]]:
    """A client in ``room`` on any process but ``not_at``, and its process.

    ``after`` is the position of the last message that it has.
    """
    address = f"{demo.address.replace('http', 'ws', 1)}ws/{room}/"
    if after:
        positions = json.dumps({f"room.{room}": after})
        address += f"?{urllib.parse.urlencode({'after': positions})}"
    for _ in range(TRIES):
        async with connect(
            address, origin=demo.address.rstrip("/"), open_timeout=DEADLINE, proxy=None
        ) as client:
            pid = (await read(client, "hello"))["pid"]
            if pid != not_at:
                yield client, pid
                return
    pytest.fail(f"{TRIES} connections, and all of them to process {not_at}")


@asynccontextmanager
async def two_clients(
    demo: Demo, room: str
) -> AsyncIterator[tuple[ClientConnection, int, ClientConnection, int]]:
    """Two clients in ``room``, on two processes."""
    async with (
        client_at(demo, room) as (one, pid),
        client_at(demo, room, not_at=pid) as (other, other_pid),
    ):
        yield one, pid, other, other_pid


def ask(demo: Demo, method: str, path: str, **fields: str) -> tuple[int, str]:
    """Asks the server.  Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", demo.port, timeout=DEADLINE)
    token = "t" * 32
    headers = {
        "Cookie": f"csrftoken={token}",
        "X-CSRFToken": token,
        "Content-Type": "application/x-www-form-urlencoded",
    }
    try:
        connection.request(method, path, urllib.parse.urlencode(fields), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


async def test_two_processes_talk(demo: Demo) -> None:
    async with two_clients(demo, "talk") as (one, pid, other, other_pid):
        await say(one, "Ada", "hello")
        heard = await read(other, "message")
        assert (heard["name"], heard["text"], heard["pid"]) == ("Ada", "hello", pid)
        await say(other, "Grace", "hello yourself")
        heard = await read(one, "message", name="Grace")
        assert (heard["text"], heard["pid"]) == ("hello yourself", other_pid)


async def test_rooms_are_apart(demo: Demo) -> None:
    async with client_at(demo, "here") as (one, _), client_at(demo, "there") as (other, _):
        await say(one, "Ada", "only here")
        await read(one, "message", text="only here")
        await say(other, "Grace", "only there")
        assert (await read(other, "message"))["text"] == "only there"


async def test_the_view_reaches_every_process(demo: Demo) -> None:
    async with two_clients(demo, "view") as (one, _, other, _):
        status, body = await asyncio.to_thread(
            ask, demo, "POST", "/room/view/post/", name="Mary", text="from a view"
        )
        assert status == 201, body
        for client in (one, other):
            heard = await read(client, "message")
            assert (heard["text"], heard["via"]) == ("from a view", "post")
            assert heard["pid"] == json.loads(body)["pid"]
    status, page = await asyncio.to_thread(ask, demo, "GET", "/room/view/")
    assert status == 200
    assert "from a view" in page  # saved, too


async def test_the_worker_answers_everybody(demo: Demo) -> None:
    async with two_clients(demo, "count") as (one, pid, other, other_pid):
        await say(one, "Ada", "one")
        await read(other, "message", text="one")
        await say(other, "Grace", "/count")
        for client in (one, other):
            answer = await read(client, "message", via="worker")
            assert answer["text"] == "2 messages in #count so far."
            assert answer["pid"] not in {pid, other_pid}


async def test_a_client_goes_on_where_it_was(demo: Demo) -> None:
    """What was said while it was away comes first, and in order."""
    async with client_at(demo, "away") as (one, pid):
        async with client_at(demo, "away") as (other, _):
            await say(one, "Ada", "one")
            position = (await read(other, "message"))["position"]
        for text in ("two", "three"):
            await say(one, "Ada", text)
            await read(one, "message", text=text)
        async with client_at(demo, "away", not_at=pid, after=position) as (other, _):
            await say(one, "Ada", "four")
            texts = [(await read(other, "message"))["text"] for _ in range(3)]
            assert texts == ["two", "three", "four"]


async def test_a_client_restarts_its_process(demo: Demo) -> None:
    """As by kill -9; its place is taken, and what is said meanwhile is not lost."""
    async with client_at(demo, "restart") as (one, pid):
        async with client_at(demo, "restart", not_at=pid) as (other, other_pid):
            await say(one, "Ada", "one")
            position = (await read(other, "message"))["position"]
            before = children_of(demo.process.pid)
            await other.send(json.dumps({"type": "restart"}))
            await asyncio.wait_for(other.wait_closed(), DEADLINE)
            await say(one, "Ada", "two")
        async with client_at(demo, "restart", after=position) as (other, _):
            assert (await read(other, "message"))["text"] == "two"
    until = time.monotonic() + DEADLINE
    while other_pid in (now := children_of(demo.process.pid)) or len(now) < len(before):
        assert time.monotonic() < until, now
        await asyncio.sleep(0.05)


async def test_a_probe_is_timed_in_both_processes(demo: Demo) -> None:
    async with two_clients(demo, "probe") as (one, pid, other, _):
        await one.send(json.dumps({"type": "ping", "id": 7}))
        for client, is_mine in ((one, True), (other, False)):
            pong = await read(client, "pong", id=7)
            assert (pong["mine"], pong["pid"]) == (is_mine, pid)
            assert pong["layer_ms"] > 0


def test_the_example_tests_itself(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "test"],
        cwd=DEMO.parent,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "chat.settings", "EXAMPLE_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Ran 5 tests" in ran.stderr


async def test_two_nodes_hear_each_other(tmp_path: Path) -> None:
    """``NODES=2``: each node has its databases, an engine connects them, pages name their node."""
    if not any(map(shutil.which, ("redis-server", "nats-server", "/usr/sbin/nats-server"))):
        pytest.skip("neither redis-server nor nats-server is installed")
    with running(tmp_path, NODES="2") as demo:
        other = replace(demo, port=demo.port + 1, address=f"http://127.0.0.1:{demo.port + 1}/")
        async with client_at(demo, "nodes") as (one, _), client_at(other, "nodes") as (two, _):
            await say(one, "Ada", "Hello from one")
            await read(two, "message", text="Hello from one")
            await say(two, "Bob", "/count")
            await read(one, "message", name="Worker")
            await read(two, "message", name="Worker")
        for number, node in enumerate((demo, other), start=1):
            _, page = await asyncio.to_thread(ask, node, "GET", "/room/nodes/")
            assert f'id="node">{number}<' in page
            assert "No history beside a relay" in page
    assert (tmp_path / "node-1" / "channels.sqlite3").exists()
    assert (tmp_path / "node-2" / "channels.sqlite3").exists()


def test_an_empty_post_is_refused(demo: Demo) -> None:
    assert ask(demo, "POST", "/room/empty/post/", name="Mary", text="  ")[0] == 400


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_process_is_left(tmp_path: Path, number: int) -> None:
    with running(tmp_path) as demo:
        below = children_of(demo.process.pid)
        assert len(below) >= 6  # uvicorn, its four, and the worker
        assert demo.stop(number) == 0
        # What multiprocessing started beside uvicorn ends a moment after its parent.
        until = time.monotonic() + DEADLINE
        while alive := [pid for pid in below if is_alive(pid)]:
            assert time.monotonic() < until, alive
            time.sleep(0.02)  # an end that is not our child's cannot be awaited


def test_a_port_in_use(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), start(port, tmp_path) as process:
        said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert f"Port {port} is in use" in said


@pytest.mark.parametrize("port", ["abc", "0", "65536"])
def test_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    with start(port, tmp_path) as process:
        said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert f"PORT is '{port}'" in said
