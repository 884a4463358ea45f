"""channels_lite.urls, as a load balancer sees it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing

import pytest
from channels.layers import channel_layers
from django.test import AsyncRequestFactory

from channels_lite.monitor import health, probe
from tests.conftest import LAYERS, TIMEOUT, use_database
from tests.processes.conftest import wait_until
from tests.servers.conftest import empty_database, folder, free_port, run

__all__ = ["empty_database", "folder", "run"]


@pytest.fixture(params=["core", "aio", "notify"])
async def configured(request, settings, database):
    """CHANNEL_LAYERS with that layer."""
    backend = f"{LAYERS[request.param].__module__}.{LAYERS[request.param].__name__}"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"database": "channels"}}}
    yield
    await channel_layers["default"].close()


async def ask(view):
    response = await view(AsyncRequestFactory().get("/"))
    return response.status_code, json.loads(response.content)


async def test_ready_when_a_message_comes_back(configured):
    """200, and how long it took; nothing of it is left."""
    status, said = await ask(health.ready)
    assert (status, said["status"]) == (200, "ok")
    assert said["layers"]["default"]["seconds"] > 0
    assert channel_layers["default"]._engine.mailboxes.is_empty


async def test_not_ready_without_tables(configured, tmp_path):
    """503 with the kind of error; no path is told to strangers."""
    await asyncio.to_thread(use_database, "channels", tmp_path / "empty.sqlite3")
    status, said = await ask(health.ready)
    assert (status, said["layers"]["default"]["reason"]) == (503, "ImproperlyConfigured")
    assert str(tmp_path) not in json.dumps(said)
    assert (await ask(health.live))[0] == 200


async def test_not_ready_when_nothing_comes_back(configured, database, monkeypatch):
    """503 after the deadline: here the row is gone before it was read."""
    monkeypatch.setattr(probe, "DEADLINE", 0.2)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute(
            "CREATE TRIGGER lost AFTER INSERT ON channels_lite_event "
            "BEGIN DELETE FROM channels_lite_event; END"
        ).close()
    status, said = await ask(health.ready)
    assert (status, said["layers"]["default"]["status"]) == (503, "failed")
    assert "no message came back" in said["layers"]["default"]["reason"]


async def test_not_ready_while_the_database_is_locked(configured, database, monkeypatch):
    """503 after the deadline, not after the time-out of the lock; then 200 again."""
    monkeypatch.setattr(probe, "DEADLINE", 0.2)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE").close()
        status, said = await asyncio.wait_for(ask(health.ready), TIMEOUT)
        other.execute("ROLLBACK").close()
    assert (status, said["layers"]["default"]["status"]) == (503, "failed")
    monkeypatch.undo()
    assert (await ask(health.ready))[0] == 200


async def test_not_ready_without_a_layer(settings):
    """503 where the settings name none of ours, as after a misspelling."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_lite.layers.notif.Notify"}}
    assert (await ask(health.ready)) == (503, {"status": "failed", "layers": {}})


@pytest.mark.parametrize(
    "server",
    [
        ["uvicorn", "--lifespan", "off", "--port", "{port}", "tests.processes.server:application"],
        ["gunicorn", "-b", "127.0.0.1:{port}", "tests.processes.server:wsgi"],
    ],
    ids=["ASGI", "WSGI"],
)
def test_asked_over_http(run, server):
    """Under ASGI and under WSGI."""
    port = free_port()
    run(*(word.format(port=port) for word in server))
    answers = {}

    def is_up():
        for name in ("live", "ready"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/{name}/") as answer:
                    answers[name] = json.load(answer)["status"]
            except urllib.error.HTTPError:
                raise
            except OSError:
                return False
        return True

    wait_until(is_up)
    assert answers == {"live": "ok", "ready": "ok"}
