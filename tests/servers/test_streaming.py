"""Many messages in a loop to a room of browsers, as with a language model's tokens.

Nothing is set: not the capacity, not the time between two looks.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.chaos.conftest import SCALE
from tests.processes.conftest import LAYERS, TIMEOUT, Child
from tests.servers.conftest import Run, free_port
from tests.servers.test_servers import ASGI, connected

pytestmark = pytest.mark.usefixtures("write_ahead_log")

#: Several times the capacity.
MESSAGES = 1000 if SCALE >= 1 else 300
BROWSERS = 8
#: ``null`` is what a project has that does not name the key.
DEFAULTS = '{"polling_interval": null}'
SERVERS: dict[str, list[str]] = {
    "uvicorn": ["uvicorn", "--lifespan", "off", "--port", "{port}", ASGI],
    "daphne": ["daphne", "-b", "127.0.0.1", "-p", "{port}", ASGI],
}
COMPLETE = f"all {MESSAGES}, in order"


class Room:
    """Processes of one server, browsers in each of them, a worker, and a script."""

    def __init__(self, run: Run, start: Any, name: str, layer: str, processes: int) -> None:
        environment = {"TEST_LAYER": layer, "TEST_CONFIG": DEFAULTS}
        self._ports = [free_port() for _ in range(processes)]
        self._servers = {
            port: run(*(part.format(port=port) for part in SERVERS[name]), **environment)
            for port in self._ports
        }
        run("django", "runworker", "jobs", **environment)
        self._script: Child = start(layer, TEST_CONFIG=DEFAULTS)
        self._browsers: list[ClientConnection] = []
        self._speaker: ClientConnection

    async def open(self) -> None:
        """Connects all; each process has as many browsers as the others."""
        ports = self._ports * (BROWSERS // len(self._ports))
        joining = (connected(port, self._servers[port]) for port in ports)
        self._browsers = [browser for browser, _ in await asyncio.gather(*joining)]
        self._speaker = await connect(f"ws://127.0.0.1:{self._ports[0]}/ws/speaker")

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in [*self._browsers, self._speaker]))

    async def member(self) -> None:
        """A consumer that is in the room itself; its own browser hears all as the others do."""
        await self._browsers[0].send(json.dumps({"stream": MESSAGES}))

    async def consumer(self) -> None:
        await self._speaker.send(json.dumps({"stream": MESSAGES}))

    async def view(self) -> None:
        await asyncio.to_thread(self._get, "view")

    async def worker(self) -> None:
        await asyncio.to_thread(self._get, "worker")

    async def script(self) -> None:
        self._script.begin("stream", group="room", by="script", count=MESSAGES)
        await asyncio.to_thread(self._script.finish, 120)

    def _get(self, by: str) -> None:
        address = f"http://127.0.0.1:{self._ports[0]}/stream/{by}/{MESSAGES}"
        with urllib.request.urlopen(address, timeout=120):
            pass

    async def heard(self, send: Callable[[], Awaitable[None]]) -> list[str]:
        """What each browser heard of that sender."""
        by = send.__name__
        heard: list[list[int]] = [[] for _ in self._browsers]

        async def hear(browser: ClientConnection, numbers: list[int]) -> None:
            while len(numbers) < MESSAGES:
                message = json.loads(await browser.recv())
                if message["by"] == by:
                    numbers.append(message["number"])

        hearing = {
            asyncio.create_task(hear(browser, numbers))
            for browser, numbers in zip(self._browsers, heard, strict=True)
        }
        await send()
        before, count = -1, 0
        while hearing and count > before:  # until all have all, or nothing comes for long
            _, hearing = await asyncio.wait(hearing, timeout=TIMEOUT / 2)
            before, count = count, sum(map(len, heard))
        for task in hearing:
            task.cancel()
        return [told(numbers) for numbers in heard]

    async def is_over(self) -> bool:
        """Whether the next thing that each hears is what is said now, and nothing twice."""
        said = {"by": "end", "number": 0}
        await self._browsers[0].send(json.dumps(said))
        hearing = (browser.recv() for browser in self._browsers)
        return all(json.loads(each) == said for each in await asyncio.gather(*hearing))


def told(numbers: list[int]) -> str:
    """What a browser heard, in words."""
    if numbers == list(range(MESSAGES)):
        return COMPLETE
    order = "in order" if numbers == sorted(numbers) else "out of order"
    return f"{len(set(numbers))} of {MESSAGES}, {len(numbers) - len(set(numbers))} twice, {order}"


async def streamed(room: Room, senders: list[Callable[[], Awaitable[None]]]) -> None:
    """Each of the senders in turn; each browser hears each of them out."""
    await asyncio.wait_for(room.open(), 3 * TIMEOUT)
    try:
        heard = {send.__name__: await room.heard(send) for send in senders}
        assert heard == {send.__name__: [COMPLETE] * BROWSERS for send in senders}
        assert await asyncio.wait_for(room.is_over(), TIMEOUT)
    finally:
        await room.close()


@pytest.mark.parametrize(
    ("layer", "name"), list(zip(LAYERS, ["uvicorn", "daphne", "uvicorn"], strict=True))
)
async def test_each_browser_hears_a_stream_out(run: Run, start: Any, layer: str, name: str):
    """Many messages in a loop, by consumer and view: each of 8 browsers gets all, in order."""
    room = Room(run, start, name, layer, processes=2)
    await streamed(room, [room.member, room.view])


@pytest.mark.chaos
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("layer", LAYERS)
async def test_each_browser_hears_a_stream_out_everywhere(
    run: Run, start: Any, layer: str, name: str, processes: int
):
    """By whomever, on one, two and four processes of each server."""
    room = Room(run, start, name, layer, processes)
    await streamed(room, [room.member, room.consumer, room.view, room.worker, room.script])
