"""Processes fork and run other programs, after the layer was used and while it receives."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.conftest import SCALE, wait_until
from tests.processes.conftest import TIMEOUT, child_environment, run_script
from tests.processes.test_server import connected

LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]
CONFIG = '{"polling_interval": 0.1, "capacity": 100000}'


def opened(pid, folder):
    """What a process has open of the database, its log and its sidecar directory."""
    links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    names = {str(path.relative_to(folder)) for path in links if path.is_relative_to(folder)}
    return {name for name in names if name.startswith("default.sqlite3")}


def fifos(pid, folder):
    # Not what it writes beside it now and then, which has a "." in its name.
    names = {name.removeprefix("default.sqlite3-wake/"): name for name in opened(pid, folder)}
    return {name for short, name in names.items() if short != name and "." not in short}


@pytest.fixture(params=LAYERS)
def layer(request):
    return request.param


@pytest.fixture
def gunicorn(layer, folder):
    """The process, its address and its log: two workers, forked from one that uses the layer."""
    log = folder / "server.log"
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("w") as output:
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2",
                   "--worker-class", "uvicorn_worker.UvicornWorker",
                   "--bind", f"fd://{listening.fileno()}",
                   "tests.chaos.preloaded:application"]  # fmt: skip
        process = subprocess.Popen(
            command,
            env=child_environment(folder, TEST_LAYER=layer, TEST_CONFIG=CONFIG),
            pass_fds=[listening.fileno()],
            stdout=output,
            stderr=output,
        )
        port = listening.getsockname()[1]
    try:
        yield process, f"ws://127.0.0.1:{port}/ws", log
    finally:
        process.terminate()
        process.wait(TIMEOUT)


async def connect_to_both(address, clients):
    """Adds clients, by the process that serves them, until there are two."""
    while len(clients) < 2:
        client, pid = await connected(address)
        if pid in clients:
            await client.close()
        else:
            clients[pid] = client


async def talk(clients, count):
    """Each says ``count`` things, and all hear all of it once, in the order of each speaker."""
    for number in range(count):
        for pid, client in clients.items():
            await client.send(json.dumps({"from": pid, "number": number}))
    for client in clients.values():
        heard = {pid: [] for pid in clients}
        for _ in range(count * len(clients)):
            said = json.loads(await client.recv())
            heard[said["from"]].append(said["number"])
        assert heard == {pid: list(range(count)) for pid in clients}


async def test_26_preloaded_workers(gunicorn, layer, start, folder):
    """Each worker has its own; one that is killed is replaced; their master goes on receiving."""
    process, address, log = gunicorn
    count = max(10, int(1000 * SCALE))
    clients = {}

    async def scene():
        await connect_to_both(address, clients)
        await talk(clients, count)
        killed, lost = clients.popitem()
        os.kill(killed, signal.SIGKILL)
        await lost.wait_closed()
        await connect_to_both(address, clients)
        assert killed not in clients
        await talk(clients, count)
        start().do("send", channel="master", message={})
        for client in clients.values():
            assert json.loads(await client.recv()) == {"master": process.pid}

    try:
        await asyncio.wait_for(scene(), 5 * TIMEOUT)
        own = [fifos(pid, folder) for pid in (process.pid, *clients)]
    finally:
        await asyncio.gather(*(client.close() for client in clients.values()))
    assert [len(each) for each in own] == [1] * 3
    assert len(set.union(*own)) == sum(map(len, own))
    assert "Traceback" not in log.read_text()


def test_26_forks_while_messages_come(start, layer, ledger):
    """Whatever the moment, the child works and takes nothing from its parent, who gets it all."""
    parent, sender = start(layer, TEST_CONFIG=CONFIG), start(TEST_CONFIG=CONFIG)
    mine, count = sender.do("describe")["prefix"], max(500, int(10_000 * SCALE))
    channel = parent.do("new_channel")
    for name in ("jobs", channel):
        parent.do("receive", channel=name, count=2 * count)
    for name in ("jobs", channel):
        first = len(ledger.sent.get(mine, []))
        sender.begin("send_many", channel=name, count=count, first=first)
        for _ in range(max(5, int(100 * SCALE))):
            forked = parent.do("fork")
            assert forked["child"]["received"] == {"type": "own"}
            assert forked["child"]["prefix"] != forked["parent"]
        ledger.sent[mine] = ledger.sent.get(mine, []) + sender.finish(120)
    ledger.receive(parent, count=2 * count)
    ledger.check(is_in_order=False)  # of two channels


#: From 3.12 on, Python warns when a process with threads forks; these scripts mean to.
FORKS = ["-W", "ignore:This process:DeprecationWarning"]
PARENT_THAT_CLOSES = """
import ctypes, gc, os, threading
import django; django.setup()
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connections
from channels_lite.models import Event

def fork_untold():
    # No thread may be at work: see docs/troubleshooting.md.  asgiref's ends with its executor.
    gc.collect()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join()
    return ctypes.PyDLL(None).fork()

layer = get_channel_layer()
other = type(layer)()  # of the same database
send = async_to_sync(layer.send)
{before}
send("jobs", {{"number": 0}})
has_sent, is_closed = os.pipe(), os.pipe()
if not {fork}:
    send("jobs", {{"number": 1}})
    os.write(has_sent[1], b"x")
    os.read(is_closed[0], 1)
    for number in range(2, 5):
        send("jobs", {{"number": number}})
    os._exit(0)
os.read(has_sent[0], 1)
for each in (layer, other):
    async_to_sync(each.close)()
connections.close_all()
os.write(is_closed[1], b"x")
os.wait()
"""


@pytest.mark.usefixtures("write_ahead_log")
@pytest.mark.parametrize(
    ("layer", "before", "fork"),
    [
        *((layer, "", "os.fork()") for layer in LAYERS),
        (LAYERS[-1], "", "fork_untold()"),
        (LAYERS[-1], 'async_to_sync(other.group_send)("room", {})', "os.fork()"),
        (LAYERS[-1], "Event.objects.exists()", "os.fork()"),  # on Django's own connection
    ],
)
def test_26_parent_that_closes(start, layer, folder, before, fork):
    """Its child goes on with the database, so SQLite must not delete the log.

    Whatever else the child has inherited that it does not use.
    """
    script = PARENT_THAT_CLOSES.format(before=before, fork=fork)
    ended = run_script(folder, script, *FORKS, TEST_LAYER=layer)
    assert (ended.returncode, ended.stderr) == (0, "")
    receiver = start()
    receiver.do("receive", channel="jobs", count=5)
    assert [message["number"] for message in receiver.messages(5)] == list(range(5))


PARENT_THAT_IS_KILLED = """
import os, signal
import django; django.setup()
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

layer = get_channel_layer()
send = async_to_sync(layer.send)
send("jobs", {"number": 0})
has_begun, is_killed = os.pipe(), os.pipe()
if not os.fork():
    os.close(is_killed[1])
    os.write(has_begun[1], b"x")
    os.read(is_killed[0], 1)
    send("jobs", {"number": 2})
    os._exit(0)
os.read(has_begun[0], 1)
async_to_sync(layer.close)()
send("jobs", {"number": 1})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("write_ahead_log")
def test_26_child_that_begins_late(start, layer, folder):
    """What the parent has sent since it closed its layer is not deleted with an older log."""
    ended = run_script(folder, PARENT_THAT_IS_KILLED, *FORKS, TEST_LAYER=layer)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")
    receiver = start()
    receiver.do("receive", channel="jobs", count=3)
    assert [message["number"] for message in receiver.messages(3)] == [0, 1, 2]


def test_27_exec(start, layer, folder):
    """The new program inherits nothing, is a new process to the layer, and its old name goes."""
    child, sender = start(layer, TEST_CONFIG=CONFIG), start()
    before, pid = child.do("describe"), child.pid
    child.do("receive", channel="jobs")
    assert opened(pid, folder)
    child.replace()
    assert opened(pid, folder) == set()
    after = child.do("describe")
    assert (after["pid"], after["prefix"] == before["prefix"]) == (pid, False)
    child.do("receive", channel="jobs")
    sender.do("send", channel="jobs", message={"type": "job"})
    assert child.received()["received"] == {"type": "job"}
    sidecar = folder / "default.sqlite3-wake"
    wait_until(lambda: not list(sidecar.rglob(f"*{before['prefix']}*")))


@pytest.fixture
def reloaded(layer, folder):
    """Lines of a process that Django starts anew when a file is touched, and that file."""
    watched = folder / "watched.py"
    watched.write_text("")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.reloaded", watched],
        env=child_environment(folder, TEST_LAYER=layer, TEST_CONFIG=CONFIG),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process.stdout, watched
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_27_autoreload(reloaded, start, layer, folder):
    """What is reloaded leaves no name, and hands no file down to its successor, which receives."""
    lines, watched = reloaded
    sender = start()
    sidecar = folder / "default.sqlite3-wake"
    seen = set()
    for number in range(3):
        pid, token = lines.readline().split()
        own = {f"{sidecar.name}/{token}"}
        assert fifos(pid, folder) == own
        wait_until(lambda: not {path.name for path in sidecar.rglob("*")} & seen)
        sender.do("send", channel="jobs", message={"number": number})
        assert lines.readline().split() == [pid, str(number)]
        seen.add(token)
        os.utime(watched, (number, watched.stat().st_mtime + 10))
    assert len(seen) == 3
