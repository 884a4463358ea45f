"""Nodes of several processes each, with a ledger outside: what each says that it sent and got."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.processes.conftest import (
    TIMEOUT,
    Child,
    can_tell_child_alone,
    child_environment,
    configured,
    empty_database,  # noqa: F401 - a fixture
    end_all,
    run_script,
    wait_until,
)
from tests.relay.engines import Engine

Start = Callable[..., Child]


@pytest.fixture
def folders(tmp_path: Path, empty_database: bytes) -> dict[str, Path]:  # noqa: F811
    """A database for each node."""
    folders = {}
    for node in ("here", "there", "third"):
        folders[node] = tmp_path / node
        folders[node].mkdir()
        (folders[node] / "default.sqlite3").write_bytes(empty_database)
    return folders


@pytest.fixture
def start(folders: dict[str, Path], tmp_path: Path, engine: Engine) -> Iterator[Start]:
    """Starts a process on a node."""
    children: list[Child] = []
    options = {"prefix": f"test-{tmp_path.name[-20:]}"}

    def start(
        node: str,
        layer: str = "notify.NotifyChannelLayer",
        patience: float = TIMEOUT,
        ahead: float = 0,
        **config: Any,
    ) -> Child:
        log = folders[node] / f"{len(children)}.log"
        environment = configured(layer, relay=engine.url, relay_options=options, **config)
        environment |= {"TEST_PATIENCE": str(patience), "TEST_AHEAD": str(ahead)}
        children.append(Child(folders[node], log, TEST_LAYER=layer, **environment))
        return children[-1]

    start.options = options  # type: ignore[attr-defined]
    yield start
    end_all(children)


LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]


@pytest.mark.parametrize(
    ("engine_name", "layer"),
    [
        ("nats", LAYERS[2]),
        pytest.param("redis", LAYERS[0], marks=pytest.mark.chaos),
        pytest.param("redis", LAYERS[1], marks=pytest.mark.chaos),
    ],
    indirect=["engine_name"],
)
def test_group_on_two_nodes_of_two_processes(start, layer):
    """Each member gets each message once, and each sender's in order."""
    children = [start(node, layer) for node in ("here", "here", "there", "there")]
    for child in children:
        channel = child.do("new_channel")
        child.do("group_add", group="room", channel=channel)
        child.do("receive", channel=channel, count=400)
    for child in children:
        child.begin("send_many", channel="room", count=100, to_group=True)
    for child in children:
        assert child.finish(60) == list(range(100))
    senders = {child.do("describe")["prefix"] for child in children}
    for child in children:
        found = [each["received"] for each in child.heard(400)]
        for sender in senders:
            numbers = [each["number"] for each in found if each["sender"] == sender]
            assert numbers == list(range(100))


SCRIPT = """
import django; django.setup()
import os, signal
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
layer = get_channel_layer()
send, group_send = async_to_sync(layer.send), async_to_sync(layer.group_send)
"""


@pytest.fixture
def script(start: Start, folders: dict[str, Path], engine: Engine) -> Callable[..., Any]:
    """Runs a short script on a node."""

    def run(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        config = configured(LAYERS[2], relay=engine.url, relay_options=start.options)
        environment = {"TEST_LAYER": LAYERS[2]} | config | environment
        return run_script(folders["here"], SCRIPT + text, **environment)

    return run


def test_short_script_has_sent(start, script):
    """One that sends, also by a transaction, and ends: it ends by itself, and all of it arrives."""
    there = start("there")
    channel = there.do("new_channel")
    there.do("group_add", group="room", channel=channel)
    there.do("receive", channel=channel, count=4)
    done = script(f"""
send({channel!r}, {{"number": 1}})
group_send("room", {{"number": 2}})
with transaction.atomic():
    send({channel!r}, {{"number": 3}})
    group_send("room", {{"number": 4}})
""")
    assert (done.returncode, done.stderr) == (0, "")
    heard = [each["received"]["number"] for each in there.heard(4)]
    assert heard == [1, 2, 3, 4]


def test_script_ends_before_it_is_connected(start, script):
    """It commits as the first thing, and ends; jobs of a group go out, too."""
    there = start("there")
    channel = there.do("new_channel")
    there.do("group_add", group="room", channel=channel)
    there.do("group_add", group="room", channel="jobs")
    for each in (channel, "jobs"):
        there.do("receive", channel=each, count=1)
    done = script("""
with transaction.atomic():
    group_send("room", {"number": 1})
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(each["channel"] for each in there.heard(2)) == sorted([channel, "jobs"])


@pytest.mark.parametrize("engine_name", ["nats", "redis"], indirect=True)
def test_script_says_what_other_nodes_missed(script, own_engine, start):
    """The engine stands still when the script ends: it waits for a moment, and says so."""
    config = configured(LAYERS[2], relay=own_engine.url, relay_options=start.options)
    done = script(
        f"""
send("jobs", {{"number": 1}})
os.kill({own_engine.pid}, signal.SIGSTOP)
with transaction.atomic():
    group_send("room", {{"number": 2}})
""",
        **config | {"TEST_PATIENCE": "1"},
    )
    assert done.returncode == 0
    assert "other nodes missed 1 messages, such as a message to room" in done.stderr


def test_stopped_process_is_not_the_engine(start):
    """A process that does not answer is told of by its name; others get their messages."""
    here, there, stopped = start("here", patience=1), start("there"), start("there")
    channel, other = there.do("new_channel"), stopped.do("new_channel")
    there.do("group_add", group="room", channel=channel)
    there.do("receive", channel=channel, count=1)
    stopped.stop()
    with pytest.raises(AssertionError, match="the other process has not answered"):
        here.do("group_add", group="room", channel=other)
    here.do("group_send", group="room", message={"number": 1})
    assert there.messages(1) == [{"number": 1}]
    stopped.go_on()


@pytest.mark.parametrize("engine_name", ["redis"], indirect=True)
def test_script_while_the_engine_is_away(folders, tmp_path, engine):
    """It is told, and ends by itself."""
    environment = configured(LAYERS[2], relay=f"{engine.scheme}://127.0.0.1:1")
    script = """
import django; django.setup()
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels_lite.errors import StoreUnavailable
layer = get_channel_layer()
async_to_sync(layer.group_send)("room", {"number": 2})
try:
    async_to_sync(layer.send)("jobs", {"number": 1})
except StoreUnavailable as error:
    print("refused")
"""
    done = run_script(folders["here"], script, TEST_LAYER=LAYERS[2], **environment)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


@pytest.mark.parametrize(
    ("engine_name", "told"),
    [
        ("nats", "all"),
        pytest.param("nats", "child", marks=can_tell_child_alone),
        ("redis", "nobody"),
    ],
    indirect=["engine_name"],
)
def test_forked_process_has_a_connection_of_its_own(start, told):
    """A child that was forked after use sends and receives across nodes, and its parent goes on."""
    here, there = start("here"), start("there")
    channel = there.do("new_channel")
    there.do("receive", channel=channel, count=3)
    mine = here.do("new_channel")
    here.do("group_add", group="room", channel=mine)
    here.do("receive", channel=mine, count=2)
    here.begin("fork_and_send", channel=channel, told=told)
    first = there.messages(2)
    [child] = [each["channel"] for each in first if each["from"] == "child"]
    there.do("send", channel=child, message={"number": 1})
    there.do("group_send", group="room", message={"number": 2})
    said = here.finish()
    assert said["child"]["received"] == [{"number": 1}, {"number": 2}]
    assert said["child"]["prefix"] != said["parent"]
    there.do("send", channel=mine, message={"number": 3})
    found = here.messages(2)
    assert sorted(each["number"] for each in found) == [2, 3]


def test_clocks_of_nodes_are_an_hour_apart(start):
    """Messages live as long as they should on both, for none carries a time of day."""
    here, there = start("here", ahead=3600), start("there")
    for sender, receiver in ((here, there), (there, here)):
        channel = receiver.do("new_channel")
        receiver.do("group_add", group="room", channel=channel)
        receiver.do("receive", channel=channel, count=2)
        receiver.do("receive", channel="jobs", count=1)
        sender.do("send", channel=channel, message={"number": 1})
        sender.do("group_send", group="room", message={"number": 2})
        sender.do("send", channel="jobs", message={"number": 3})
        assert sorted(each["number"] for each in receiver.messages(3)) == [1, 2, 3]
        receiver.do("group_discard", group="room", channel=channel)


def test_killed_worker(start):
    """Of the jobs that are there, others take all but the one in the killed one's hands."""
    here, there, other = start("here"), start("there"), start("there")
    there.do("receive", channel="jobs", count=1)
    there.kill()
    for number in range(20):
        here.do("send", channel="jobs", message={"number": number})
    other.do("receive", channel="jobs", count=21)
    other.do("send", channel="jobs", message={"number": 20})
    found = []
    while not found or found[-1] != 20:
        found.append(other.received()["received"]["number"])
    assert found == sorted(set(found))
    assert len(found) >= 19


def test_stopped_process_keeps_nobody(start):
    """A process that reads nothing costs no other anything; it hears all when it goes on."""
    here, there, stopped = start("here"), start("there"), start("there")
    channels = []
    for child in (there, stopped):
        channel = child.do("new_channel")
        channels.append(channel)
        child.do("group_add", group="room", channel=channel)
        child.do("receive", channel=channel, count=600)
    stopped.stop()
    assert here.do("send_many", channel="room", count=300, to_group=True) == list(range(300))
    assert here.do("send_many", channel=channels[1], count=300) == list(range(300))
    assert [each["number"] for each in there.messages(300)] == list(range(300))
    stopped.go_on()
    found = [each["number"] for each in stopped.messages(600)]
    assert found == [*range(300), *range(300)]


@pytest.mark.parametrize("engine_name", ["nats"], indirect=True)
def test_runworker_on_another_node(start, folders, engine):
    """Channels' own command takes jobs from every node, and ends when it is told to."""
    environment = configured(LAYERS[2], relay=engine.url, relay_options=start.options)
    here = start("here")
    worker = subprocess.Popen(
        [sys.executable, "-m", "django", "runworker", "jobs"],
        env=child_environment(folders["there"], TEST_LAYER=LAYERS[2], **environment),
    )
    try:
        channel = here.do("new_channel")
        here.do("receive", channel=channel, count=3)
        here.do("group_add", group="room", channel=channel)
        here.do("send", channel="jobs", message={"type": "stream", "count": 3})
        found = [each["content"] for each in here.messages(3)]
        assert [each["number"] for each in found] == [0, 1, 2]
    finally:
        worker.terminate()
        worker.wait(TIMEOUT)


@pytest.mark.parametrize("engine_name", ["redis"], indirect=True)
def test_members_of_a_group_are_read_again(start, tmp_path, folders, engine_name):
    """A channel that joins while the engine is away gets messages when it is back."""
    from tests.relay.conftest import ENGINES

    own = ENGINES[engine_name](tmp_path / "own").start()
    with ExitStack() as started:
        started.callback(own.kill)
        children = []
        for number, node in enumerate(("here", "here", "there")):
            environment = configured(LAYERS[2], relay=own.url)
            log = folders[node] / f"own-{number}.log"
            children.append(Child(folders[node], log, TEST_LAYER=LAYERS[2], **environment))
            started.callback(children[-1].end)
        one, two, there = children
        there.do("new_channel")
        channel = two.do("new_channel")
        two.do("receive", channel=channel, count=1)
        own.kill()
        for child in (two, there):
            wait_until(lambda log=child.log: "is away" in log.read_text())
        one.do("group_add", group="room", channel=channel)
        own.start()
        for child in (two, there):
            wait_until(lambda log=child.log: "is back\n" in log.read_text())
        there.do("group_send", group="room", message={"number": 1})
        assert two.messages(1) == [{"number": 1}]
