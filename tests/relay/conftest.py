"""An engine, and two nodes with a database each; here both in one process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.relay import deadline
from tests.conftest import LAYERS, TIMEOUT, closed_at_the_end, use_database
from tests.relay.engines import Engine, NatsServer, RedisServer

ENGINES: dict[str, type[Engine]] = {"nats": NatsServer, "redis": RedisServer}
#: The alias of each node's database.
NODES = {"here": "channels", "there": "default"}

MakeNode = Callable[..., BaseSQLiteChannelLayer]


def needs(name: str) -> None:
    """Skips where the server, or the package that talks to it, is not installed."""
    pytest.importorskip("nats" if name == "nats" else "redis")
    if ENGINES[name].path() is None:
        pytest.skip(f"{ENGINES[name].binary} is not installed: apt install {ENGINES[name].binary}")


#: Modules whose tests make the engine late; in others a busy machine may.
OF_FAULTS = ("test_faults", "test_cluster", "test_network")


@pytest.fixture(autouse=True)
def _patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits longer than a second for the engine, here and in processes that a test starts."""
    if request.module.__name__.rpartition(".")[2] not in OF_FAULTS:
        monkeypatch.setattr(deadline, "DEADLINE", TIMEOUT)
        monkeypatch.setenv("TEST_PATIENCE", str(TIMEOUT))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine]]:
    """One server of each kind for all tests that do it no harm."""
    started: dict[str, Engine] = {}

    def engine(name: str) -> Engine:
        if name not in started:
            started[name] = ENGINES[name](tmp_path_factory.mktemp(name)).start()
        return started[name]

    yield engine
    for each in started.values():
        each.kill()


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Which engine."""
    needs(request.param)
    return request.param


@pytest.fixture
def engine(engine_name: str, running: Callable[[str], Engine]) -> Engine:
    """It runs, and other tests use it too."""
    return running(engine_name)


@pytest.fixture
def own_engine(engine_name: str, tmp_path: Path) -> Iterator[Engine]:
    """One that may be killed and frozen."""
    started = ENGINES[engine_name](tmp_path / engine_name).start()
    yield started
    started.kill()


@pytest.fixture
def databases(tmp_path: Path, migrated: bytes) -> Iterator[None]:
    """A migrated file for each node."""
    for node, alias in NODES.items():
        folder = tmp_path / node
        folder.mkdir()
        path = folder / "channels.sqlite3"
        path.write_bytes(migrated)
        use_database(alias, path)
    yield
    for alias in NODES.values():
        connections[alias].close()


@pytest.fixture
def kind() -> str:
    """Which layer.  The relay is the same for all; `test_relay` and `test_contract` take others."""
    return "notify"


@pytest.fixture
def make_node_sync(databases: None, kind: str) -> Iterator[MakeNode]:
    """Makes a layer on a node, for a process of its own would: ``make("here", url)``."""
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    with closed_at_the_end() as made:

        def make(node: str, url: str, kind: str = kind, **config: Any) -> BaseSQLiteChannelLayer:
            options = {"prefix": prefix} | config.pop("relay_options", {})
            defaults = {
                "database": NODES[node],
                "polling_interval": 60 if kind == "notify" else 0.01,
                "relay": url,
                "relay_options": options,
            }
            made.append(LAYERS[kind](**defaults | config))
            return made[-1]

        yield make


@pytest.fixture
async def make_node(make_node_sync: MakeNode) -> MakeNode:
    """The same, on the test's loop."""
    return make_node_sync


@pytest.fixture
def nodes(make_node: MakeNode, engine: Engine) -> tuple[Any, Any]:
    """A layer on each."""
    return make_node("here", engine.url), make_node("there", engine.url)
