"""A database for each test, and the layers on it."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from hypothesis import settings

from channels_lite import clock
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.layers.notify import NotifyChannelLayer
from channels_lite.wake import datagrams
from channels_lite.wake.datagrams import MAX_DATAGRAM
from channels_lite.wake.hooks import Hooks, hooks

LAYERS: dict[str, type[BaseSQLiteChannelLayer]] = {
    "core": SQLiteChannelLayer,
    "aio": AIOSQLiteChannelLayer,
    "notify": NotifyChannelLayer,
    "notify-polling": NotifyChannelLayer,
}
# An example may take any time: the machine may be busy.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# Seconds; what works takes a hundredth.
TIMEOUT = 20

MakeLayer = Callable[..., BaseSQLiteChannelLayer]


def use_database(alias: str, name: Path | str) -> None:
    """Points the alias at another file, as Django's test runner does."""
    connections[alias].close()
    connections.settings[alias]["NAME"] = name
    connections[alias].close()  # Django closes no connection whose name is an in-memory database's


@pytest.fixture(scope="session", autouse=True)
def _modules_are_no_garbage() -> None:
    """Collections, of which most tests end with one, pass over what was imported until now."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> bytes:
    """The content of a migrated database, made once."""
    path = tmp_path_factory.mktemp("migrated") / "channels.sqlite3"
    use_database("channels", path)
    with django_db_blocker.unblock():
        call_command("migrate", database="channels", verbosity=0)
        connections["channels"].close()
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _databases_are_allowed(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


@pytest.fixture(autouse=True)
def _clock_of_no_other_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are made without a layer go by the one that was used last."""
    monkeypatch.setattr(clock, "_latest", clock.Clock())


@pytest.fixture
def database(tmp_path: Path, migrated: bytes) -> Iterator[Path]:
    """A migrated file for the alias "channels"."""
    path = tmp_path / "channels.sqlite3"
    path.write_bytes(migrated)
    use_database("channels", path)
    yield path
    connections["channels"].close()


@pytest.fixture(params=LAYERS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which layer; notify also with the extension off."""
    if request.param == "notify-polling":
        monkeypatch.setattr(Hooks, "reason", "turned off by a test")
    else:
        assert hooks.reason == ""
    return request.param


@contextmanager
def closed_at_the_end() -> Iterator[list[BaseSQLiteChannelLayer]]:
    """A list for the layers of a test."""
    made: list[BaseSQLiteChannelLayer] = []
    yield made
    for layer in made:
        asyncio.run(layer.close())
    made.clear()
    gc.collect()


@pytest.fixture
def make_layer_sync(database: Path, kind: str) -> Iterator[MakeLayer]:
    """Makes layers of that kind on the database, for tests that run loops of their own."""
    with closed_at_the_end() as made:

        def make(kind: str = kind, **config: Any) -> BaseSQLiteChannelLayer:
            defaults = {
                "database": "channels",
                "polling_interval": 60 if kind == "notify" else 0.01,
            }
            made.append(LAYERS[kind](**defaults | config))
            return made[-1]

        yield make


@pytest.fixture
def large_as_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that are too large for a datagram become rows, as without memory files."""
    monkeypatch.setattr(datagrams, "LARGEST", MAX_DATAGRAM)
    monkeypatch.setenv("TEST_LARGEST", str(MAX_DATAGRAM))


@pytest.fixture
async def make_layer(make_layer_sync: MakeLayer) -> MakeLayer:
    """The same, on the test's loop."""
    return make_layer_sync


@pytest.fixture
def layer(make_layer: MakeLayer) -> BaseSQLiteChannelLayer:
    """A layer with the default CONFIG."""
    return make_layer()


async def received(layer: BaseSQLiteChannelLayer, channel: str) -> dict[str, Any]:
    """The next message; fails rather than waits for ever."""
    return await asyncio.wait_for(layer.receive(channel), TIMEOUT)


async def is_empty(layer: BaseSQLiteChannelLayer, channel: str) -> bool:
    """Whether a message sent now is the next one that comes; works below capacity only."""
    await layer.send(channel, {"type": "marker"})
    return await received(layer, channel) == {"type": "marker"}


async def until(condition: Callable[[], object]) -> None:
    """For what no event tells of."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@contextmanager
def files_of_calls() -> Iterator[set[str]]:
    """The files of all functions that this thread calls within."""
    called: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
