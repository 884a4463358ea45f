"""The ledger of `tests.resume.test_ledger`, with servers and senders on two nodes."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tests.chaos.conftest import SCALE
from tests.processes.conftest import LAYERS, TIMEOUT, configured, empty_database, start
from tests.relay.engines import Engine
from tests.resume.client import Client
from tests.resume.conftest import SETTINGS, Site
from tests.resume.test_ledger import (
    CLIENTS,
    SENDERS,
    Senders,
    all_of,
    check,
    connected,
    cut_at_random,
    kill_at_random,
    roll,
    started,
)
from tests.servers.conftest import folder, run

__all__ = ["empty_database", "folder", "run", "start"]

#: A layer with each engine; `make chaos` has more.
BOTH = [("notify", "nats"), ("core", "redis")]
ALL = [(layer, engine) for layer in ("core", "aio", "notify") for engine in ("nats", "redis")]


@pytest.fixture(
    params=[each if each in BOTH else pytest.param(each, marks=pytest.mark.chaos) for each in ALL],
    ids="-".join,
)
def both(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def layer(both: Any) -> str:
    return next(each for each in LAYERS if each.startswith(both[0]))


@pytest.fixture
def engine_name(both: Any) -> str:
    return both[1]


@pytest.fixture
def nodes(tmp_path: Any, engine: Engine, layer: str, empty_database: bytes) -> list[Any]:
    """The environment of processes on each node."""
    found = []
    options = {"prefix": f"test-{tmp_path.name[-20:]}"}
    for name in ("one", "two"):
        place = tmp_path / name
        place.mkdir()
        (place / "default.sqlite3").write_bytes(empty_database)
        with closing(sqlite3.connect(place / "default.sqlite3")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        config = configured(layer, relay=engine.url, relay_options=options)
        found.append({"TEST_FOLDER": str(place), "TEST_PATIENCE": str(TIMEOUT)} | config)
    return found


@pytest.fixture
def make_site(run: Any, nodes: list[Any]) -> Any:
    """The first on one node, the second on the other, and so on."""
    count = 0

    def make(layer: str) -> Site:
        nonlocal count
        count += 1
        return Site(run, layer, **nodes[count % 2])

    return make


@pytest.fixture
def senders(start: Any, nodes: list[Any], layer: str) -> Senders:
    return Senders([start(layer, **SETTINGS | nodes[each % 2]) for each in range(SENDERS)])


def clients_of(sites: list[Site]) -> list[Client]:
    """They come back to any site, so to any node."""
    return [Client("room", lambda: random.choice(sites).port) for _ in range(CLIENTS)]


async def test_random_cuts_on_two_nodes(
    make_site: Any, senders: Senders, layer: str, both: Any, capsys: Any
):
    """A client that is cut off comes back on any node, and has everything once, in one order."""
    sites = await started(make_site, layer, 2)
    clients = clients_of(sites)
    cuts = int(1000 * SCALE)
    async with connected(clients):
        await senders.send_while(cut_at_random(clients, cuts), all_of(clients))
        await check(senders, clients, capsys, f"{cuts} cuts on two nodes, {'-'.join(both)}")
    assert sum(client.cuts for client in clients) == cuts


@pytest.mark.chaos
async def test_servers_of_two_nodes_are_killed_and_deployed(
    make_site: Any, senders: Senders, layer: str, both: Any, capsys: Any
):
    """kill -9 of any of four servers, at any moment, and then rolling restarts of all."""
    sites = await started(make_site, layer, 4)
    clients = clients_of(sites)
    kills, deployments = max(2, int(40 * SCALE)), max(1, int(5 * SCALE))
    async with connected(clients):
        await senders.send_while(kill_at_random(sites, kills), all_of(clients))
        await senders.send_while(roll(sites, deployments), all_of(clients))
        what = f"{kills} kills, {deployments} rolling restarts on two nodes, {'-'.join(both)}"
        await check(senders, clients, capsys, what)
