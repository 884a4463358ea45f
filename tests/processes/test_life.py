"""Processes start, fork, end and are killed; the next one finds things in order."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from channels_lite.monitor.snapshot import processes_of
from tests.processes.conftest import (
    TIMEOUT,
    can_tell_child_alone,
    child_environment,
    run_script,
    wait_until,
)

SOON = '{"polling_interval": 0.1}'
LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]


def names(folder):
    """What is in the sidecar directory."""
    sidecar = folder / "default.sqlite3-wake"
    return (
        {str(path.relative_to(sidecar)) for path in sidecar.rglob("*")}
        if sidecar.exists()
        else set()
    )


def test_sidecar_is_gone_after_an_orderly_end(start, folder):
    """A process that ends leaves nothing of its own and, if it was the last, no directory."""
    child = start(TEST_CONFIG=SOON)
    child.do("receive", channel="jobs", count=2)
    child.do("send", channel="jobs", message={})
    token = child.do("describe")["prefix"]
    mine = {token, f"{token}.frames", f"{token}.received", f"@jobs/{token}"}
    left = mine | {"@jobs", ".@jobs", ".upkeep", ".clock"}
    wait_until(lambda: names(folder) == left)
    child.end()
    assert not (folder / "default.sqlite3-wake").exists()


def test_sidecar_is_reclaimed_after_a_kill(start, folder):
    """What a killed process left behind is removed by the next one that listens."""
    killed = start(TEST_CONFIG=SOON)
    killed.do("receive", channel="jobs", count=2)
    killed.do("send", channel="jobs", message={})
    dead = killed.do("describe")["prefix"]
    wait_until(lambda: f"{dead}.received" in names(folder))
    killed.kill()
    assert dead in names(folder)
    successor = start()
    successor.do("receive", channel="others")
    wait_until(lambda: not {name for name in names(folder) if dead in name})


def groups(folder):
    """Channels that are members of groups."""
    with closing(sqlite3.connect(folder / "default.sqlite3")) as connection:
        return connection.execute(
            "SELECT channel_name FROM channels_lite_groupmembership ORDER BY 1"
        ).fetchall()


def test_memberships_of_the_dead_end(start, folder):
    """Those of a killed process, and of one that ended in order, are soon gone; others stay."""
    config = '{"polling_interval": 0.5}'  # and with it the upkeep
    killed, ended, alive = (start(TEST_CONFIG=config) for _ in range(3))
    channels = [child.do("new_channel") for child in (killed, ended, alive)]
    for child, channel in zip((killed, ended, alive), channels, strict=True):
        child.do("receive", channel=channel)
        child.do("group_add", group="room", channel=channel)
    alive.do("group_add", group="room", channel="plain")
    killed.kill()
    ended.end()
    assert (channels[1],) not in groups(folder)
    start(TEST_CONFIG=config).do("receive", channel="jobs")
    # The first of those that live does it, now or within some seconds.
    wait_until(lambda: (channels[0],) not in groups(folder))
    assert groups(folder) == sorted([("plain",), (channels[2],)])


@pytest.mark.parametrize("layer", LAYERS)
def test_end_after_the_alias_was_renamed(folder, layer):
    """As by Django's test runner, to the project's own file: that is not opened, and not made."""
    other = folder / "other.sqlite3"
    script = (
        "import django; django.setup()\n"
        "from asgiref.sync import async_to_sync\n"
        "from channels.layers import get_channel_layer\n"
        "from django.db import connections\n"
        "layer = get_channel_layer()\n"
        "async_to_sync(layer.send)('jobs', {'type': 'x'})\n"
        "async_to_sync(layer.receive)('jobs')\n"
        "async_to_sync(layer.group_add)('room', async_to_sync(layer.new_channel)())\n"
        f"connections.settings['default']['NAME'] = {str(other)!r}\n"
    )
    environment = child_environment(folder, TEST_LAYER=layer)
    subprocess.run([sys.executable, "-c", script], env=environment, timeout=TIMEOUT, check=True)
    assert not other.exists()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("closes", [False, True])
def test_orderly_end_leaves_the_groups(start, folder, layer, closes):
    """Of a process that ends by itself no channel stays a member, whether it closed its layer."""
    child = start(layer)
    child.do("group_add", group="room", channel=child.do("new_channel"))
    child.do("receive", channel="jobs")
    child.do("send", channel="jobs", message={})
    child.received()
    if closes:
        child.do("close")
    child.end()
    assert groups(folder) == []


def test_killed_reader_takes_no_message_along(start):
    """A plain channel's other reader goes on when one is killed."""
    killed, survivor, sender = start(), start(), start()
    for reader in (killed, survivor):
        reader.do("receive", channel="jobs", count=3)
    killed.kill()
    for number in range(3):
        sender.do("send", channel="jobs", message={"number": number})
    assert [message["number"] for message in survivor.messages(3)] == [0, 1, 2]


@pytest.mark.parametrize("told", ["all", pytest.param("child", marks=can_tell_child_alone), "none"])
@pytest.mark.parametrize("layer", LAYERS)
def test_forked_child_has_its_own(start, layer, told):
    """A child forked after use works, and takes nothing from its parent, which goes on.

    However little Python was told of the fork.
    """
    parent = start(layer, TEST_CONFIG='{"polling_interval": 0.05}')
    channel = parent.do("new_channel")
    parent.do("receive", channel=channel)
    forked = parent.do("fork", told=told)
    assert forked["child"]["received"] == {"type": "own"}
    assert forked["child"]["prefix"] != forked["parent"]
    parent.do("send", channel=channel, message={"type": "still here"})
    assert parent.received()["received"] == {"type": "still here"}


@pytest.mark.parametrize("layer", LAYERS)
def test_script_that_only_sends_exits(folder, layer):
    """A script that sends by async_to_sync and never closes the layer ends by itself, silently."""
    script = (
        "import django; django.setup()\n"
        "from asgiref.sync import async_to_sync\n"
        "from channels.layers import get_channel_layer\n"
        "async_to_sync(get_channel_layer().send)('jobs', {'type': 'x'})\n"
    )
    ended = run_script(folder, script, "-W", "error", TEST_LAYER=layer)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("layer", LAYERS)
def test_loop_of_a_thread_works_until_the_end(folder, layer):
    """While Python ends, the loop of a daemon thread still sends and receives."""
    script = (
        "import django; django.setup()\n"
        "import asyncio, atexit, threading\n"
        "from channels.layers import get_channel_layer\n"
        "layer, loop = get_channel_layer(), asyncio.new_event_loop()\n"
        "threading.Thread(target=loop.run_forever, daemon=True).start()\n"
        "def talk(number):\n"
        "    async def talk():\n"
        "        await layer.send('jobs', {'number': number})\n"
        "        print(await layer.receive('jobs'))\n"
        "    asyncio.run_coroutine_threadsafe(talk(), loop).result(20)\n"
        "talk(1)\n"
        "atexit.register(talk, 2)\n"
    )
    ended = run_script(folder, script, "-W", "error", TEST_LAYER=layer)
    assert (ended.stdout, ended.stderr) == ("{'number': 1}\n{'number': 2}\n", "")


def test_without_extension_it_polls_and_says_so_once(start):
    """Without the C extension messages still arrive, and one warning says why they are slower."""
    config = '{"polling_interval": 0.05}'
    receiver = start(TEST_WITHOUT_EXTENSION="1", TEST_CONFIG=config)
    sender = start(TEST_WITHOUT_EXTENSION="1", TEST_CONFIG=config)
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel, count=2)
    for number in range(2):
        sender.do("send", channel=channel, message={"number": number})
    assert receiver.messages(2) == [{"number": 0}, {"number": 1}]
    said = receiver.log.read_text()
    assert said.count("the notify layer polls") == 1
    assert "pip install channels-lite[notify]" in said


def test_without_hooks_the_layers_still_wake(start):
    """Where no connection can be hooked, layers wake each other, and one warning says the rest."""
    receiver = start(TEST_WITHOUT_HOOKS="1", TEST_CONFIG='{"polling_interval": 1}')
    sender = start(TEST_WITHOUT_HOOKS="1")
    receiver.do("receive", channel="jobs", count=2)
    sender.do("send", channel="jobs", message={"type": "sent"})
    assert receiver.received()["received"] == {"type": "sent"}
    assert receiver.do("describe")["reason"] == ""
    sender.do("create_event", channel="jobs", message={"type": "created"})
    assert receiver.received()["received"] == {"type": "created"}
    assert receiver.log.read_text().count("only sends of the layers wake receivers") == 1


def test_without_fifo_it_polls_and_says_so_once(start, folder):
    """Where the sidecar directory cannot be made messages still arrive, with one warning."""
    (folder / "default.sqlite3-wake").write_text("a file in its place")
    receiver, sender = start(TEST_CONFIG='{"polling_interval": 0.05}'), start()
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel)
    sender.do("send", channel=channel, message={"type": "hello"})
    assert receiver.received()["received"] == {"type": "hello"}
    said = receiver.log.read_text()
    assert said.count("the notify layer polls") == 1
    assert "is not a directory; remove it" in said
    assert (folder / "default.sqlite3-wake").read_text() == "a file in its place"


def test_processes_are_named(start, folder):
    """Who receives on which plain channels, and who was killed; by process id."""
    alive, killed = start(), start()
    for child in (alive, killed):
        child.do("receive", channel="jobs")
    killed.kill()
    found = processes_of(folder / "default.sqlite3-wake")
    assert {(each.is_alive, each.pid) for each in found} == {(True, alive.pid), (False, None)}
    assert all(each.channels == ["jobs"] for each in found)
