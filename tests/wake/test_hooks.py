"""Which connections are hooked, within one process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import override_settings

from channels_lite.layers.notify import NotifyChannelLayer
from channels_lite.models import Event
from channels_lite.wake.hooks import hooks
from tests.conftest import TIMEOUT, received


@override_settings(CHANNEL_LAYERS={})
@pytest.mark.parametrize("is_open", [True, False], ids=["opened before", "opened after"])
async def test_layer_that_only_code_knows(database, is_open):
    """Rows of the ORM wake the receivers of a layer that CHANNEL_LAYERS does not name."""

    @sync_to_async
    def touch():
        connections["channels"].close()
        if is_open:
            connections["channels"].ensure_connection()

    @sync_to_async
    def create(data):
        Event.objects.using("channels").create(channel_name="jobs", data=data)

    await touch()
    layer = NotifyChannelLayer(database="channels", polling_interval=60)
    receiving = asyncio.ensure_future(received(layer, "jobs"))
    while not layer._engine.mailboxes.is_served("jobs"):  # noqa: ASYNC110 - it is a few iterations
        await asyncio.sleep(0)
    await create(layer.serialize({"type": "job"}))
    assert await receiving == {"type": "job"}
    await layer.close()


def test_connection_that_is_hidden_is_named():
    """What wraps Python's connection and does not show it is in the reason."""

    class Hidden:
        pass

    assert hooks.attach(Hidden(), b"") == (  # type: ignore[arg-type]
        f"{__name__}.{Hidden.__qualname__} hides Python's own connection"
    )


def test_connection_is_hooked_by_the_thread_that_uses_it(database, monkeypatch):
    """Another thread may close it while a layer is made: SQLite then frees what it holds."""
    hooked_by = []

    def attach(connection, sidecar):
        hooked_by.append(threading.current_thread())
        return ""

    def use():
        connections["channels"].ensure_connection()
        is_open.set()
        assert is_made.wait(TIMEOUT)
        assert hooked_by == []
        for _ in range(2):
            assert not Event.objects.using("channels").exists()
        connections["channels"].close()

    connections["channels"].close()
    is_open, is_made = threading.Event(), threading.Event()
    with override_settings(CHANNEL_LAYERS={}), ThreadPoolExecutor(1) as executor:
        using = executor.submit(use)
        assert is_open.wait(TIMEOUT)
        monkeypatch.setattr(hooks, "attach", attach)
        for _ in range(2000):  # as many calls inside each other are too many for Python
            NotifyChannelLayer(database="channels")
        is_made.set()
        using.result()
        [thread] = executor._threads
    assert hooked_by == [thread]


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has its GIL"
)
def test_free_threaded_python_keeps_its_gil_off():
    """The extension says that it needs none, and so does all that the layers import."""
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import django; django.setup()\n"
         "import sys, channels_lite.layers.aio, channels_lite.layers.notify\n"
         "from channels_lite.wake.hooks import hooks\n"
         "print([hooks.reason, sys._is_gil_enabled()])\n"],
        env={key: value for key, value in os.environ.items() if key != "PYTHON_GIL"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert (said.stdout, said.stderr) == ("['', False]\n", "")
