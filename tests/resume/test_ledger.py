"""Clients that are cut off again and again have every message of eight senders, once, in one order.

The ledger is the senders' own: each counts its messages, and every client has to have them all.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.browser import until
from tests.chaos.conftest import SCALE
from tests.processes.conftest import LAYERS, Child, wait_until
from tests.resume.client import Client
from tests.resume.conftest import Site
from tests.resume.proxy import Proxy

MEMBERS = "SELECT count(*) FROM channels_lite_groupmembership"

SENDERS = 8
CLIENTS = 4
# Messages that each sender sends in one go.
ROUND = 50
# Seconds until the last message has come to all.
CATCHING_UP = 120

COUNTS = ("connections", "twice")

# Messages by which a client may be behind.
LAG = 2000

Line = tuple[str, int]
KeepUp = Callable[[int], Awaitable[None]]


class Senders:
    """Eight processes, and how much each has sent."""

    def __init__(self, children: list[Child]) -> None:
        self._children = dict(zip("abcdefgh", children, strict=True))
        self.sent = dict.fromkeys(self._children, 0)

    @property
    def total(self) -> int:
        return sum(self.sent.values())

    async def send(self) -> None:
        """All of them at once."""
        await asyncio.gather(*(self._send(by) for by in self._children))

    async def _send(self, by: str) -> None:
        child = self._children[by]
        child.begin("stream", group="room", by=by, count=ROUND, first=self.sent[by])
        await asyncio.to_thread(child.finish, 120)
        self.sent[by] += ROUND

    async def send_while(self, work: Awaitable[None], keep_up: KeepUp) -> None:
        """Until that is done, and once more; waits for whoever is too far behind."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await self.send()
            await keep_up(self.total - LAG)
        await task
        await self.send()

    def check(self, heard: list[Line]) -> None:
        """Nothing is missed, nothing is there twice, and the lines of each are in order."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for by, number in heard:
            numbers[by].append(number)
        assert numbers == {by: list(range(count)) for by, count in self.sent.items()}


@asynccontextmanager
async def connected(clients: Iterable[Client]) -> AsyncIterator[None]:
    """They are in the group, and come back to it until the end."""
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        await asyncio.gather(*(client.until_joined(CATCHING_UP) for client in clients))
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def check(senders: Senders, clients: list[Client], capsys: Any, what: str) -> None:
    """The ledger, once all that was sent has come, or nothing comes for long."""
    waiting = (client.until_heard(senders.total, CATCHING_UP) for client in clients)
    await asyncio.gather(*waiting, return_exceptions=True)
    for client in clients:
        senders.check(client.heard)
        assert client.heard == clients[0].heard, "not in one order for all"
        assert client.incomplete == 0
    connections, twice = (sum(getattr(each, name) for each in clients) for name in COUNTS)
    with capsys.disabled():
        print(
            f"\n{what}: {senders.total} messages of {SENDERS} senders to each of {CLIENTS} clients,"
            f" over {connections} connections; missed 0, twice 0, repeated and dropped {twice}"
        )


def all_of(clients: list[Client]) -> KeepUp:
    """Returns when each has heard so many."""

    async def keep_up(count: int) -> None:
        await asyncio.gather(*(client.until_heard(count, CATCHING_UP) for client in clients))

    return keep_up


@pytest.fixture
def senders(make_sender: Callable[..., Child], layer: str) -> Senders:
    return Senders([make_sender(layer) for _ in range(SENDERS)])


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> str:
    return request.param


async def started(make_site: Callable[..., Site], layer: str, count: int) -> list[Site]:
    """So many servers that answer."""
    sites = [make_site(layer) for _ in range(count)]
    for site in sites:
        await asyncio.to_thread(site.wait)
    return sites


async def cut_at_random(clients: list[Client], cuts: int) -> None:
    """Cuts a client off, at a random moment; it has just come back, or is about to."""
    for _ in range(cuts):
        await asyncio.sleep(0.05 * random.random())
        await random.choice(clients).cut()


async def test_random_cuts(
    make_site: Any, senders: Senders, layer: str, query: Callable[[str], Any], capsys: Any
):
    """Cut off at any moment: while it catches up, in the middle of a message, before it joins.

    Nothing is left of connections that were cut.
    """
    sites = await started(make_site, layer, 2)
    clients = [Client("room", lambda: random.choice(sites).port) for _ in range(CLIENTS)]
    cuts = int(1000 * SCALE)
    async with connected(clients):
        await senders.send_while(cut_at_random(clients, cuts), all_of(clients))
        await check(senders, clients, capsys, f"{cuts} cuts, {layer}")
    assert sum(client.cuts for client in clients) == cuts
    await asyncio.to_thread(wait_until, lambda: query(MEMBERS) == [(0,)])


async def kill_at_random(sites: list[Site], times: int) -> None:
    """Kills a server, which is started again; all the others serve on."""
    for _ in range(times):
        site = random.choice(sites)
        site.server.signal(signal.SIGKILL)
        await asyncio.sleep(random.random())
        site.start()
        await asyncio.to_thread(site.wait)


async def roll(sites: list[Site], times: int) -> None:
    """A deployment: one after the other ends in good order, and is started again."""
    for _ in range(times):
        for site in sites:
            site.server.signal(signal.SIGTERM)
            await asyncio.to_thread(site.server.wait)
            site.start()
            await asyncio.to_thread(site.wait)


@pytest.mark.chaos
async def test_servers_are_killed_and_deployed(
    make_site: Any, senders: Senders, layer: str, capsys: Any
):
    """kill -9 of any of four servers, at any moment, and then rolling restarts of all."""
    sites = await started(make_site, layer, 4)
    clients = [Client("room", lambda: random.choice(sites).port) for _ in range(CLIENTS)]
    kills, deployments = max(2, int(40 * SCALE)), max(1, int(5 * SCALE))
    async with connected(clients):
        await senders.send_while(kill_at_random(sites, kills), all_of(clients))
        await senders.send_while(roll(sites, deployments), all_of(clients))
        what = f"{kills} kills, {deployments} rolling restarts, {layer}"
        await check(senders, clients, capsys, what)


@pytest.mark.chaos
@pytest.mark.parametrize("layer", ["notify.NotifyChannelLayer"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets
async def test_page_while_servers_are_killed_and_deployed(
    make_site: Any, make_proxy: Any, browser: Any, senders: Senders, layer: str
):
    """The same in a browser, which is cut off besides."""
    sites = await started(make_site, layer, 4)
    proxy: Proxy = make_proxy(lambda: random.choice(sites).port)

    def ask(script: str) -> Any:
        return until(browser, script)

    async def keep_up(count: int) -> None:
        await asyncio.to_thread(ask, f"heard.length >= {count}")

    await asyncio.to_thread(browser.get, f"http://127.0.0.1:{proxy.port}/page/?groups=room")
    await asyncio.to_thread(ask, "socket.positions.room")

    async def cut(times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(random.random())
            await asyncio.to_thread(proxy.cut)

    await senders.send_while(cut(max(10, int(200 * SCALE))), keep_up)
    await senders.send_while(kill_at_random(sites, max(2, int(20 * SCALE))), keep_up)
    await senders.send_while(roll(sites, max(1, int(3 * SCALE))), keep_up)
    heard = await asyncio.to_thread(
        ask, f"heard.length >= {senders.total} && heard.map((m) => [m.by, m.number])"
    )
    senders.check([(by, number) for by, number in heard])
