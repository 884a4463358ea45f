"""Histories across processes: woken at each commit, and nothing is lost with a process."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes.conftest import LAYERS, configured

HISTORY = {"group_history": {"room*": {"messages": 5000, "seconds": 3600}}}


@pytest.fixture
def begin(start):
    """Starts a process with histories, whose fallback look is a minute away."""
    return lambda layer="notify.NotifyChannelLayer", **config: start(
        layer, **configured(layer, **HISTORY | config)
    )


def join(process, count=1, after=None):
    """A channel of the process that is in the room, and listens."""
    channel = process.do("new_channel")
    process.do("receive", channel=channel, count=count)
    joined = process.do("group_add", group="room", channel=channel, after=after)
    return channel, joined


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_wakes_sleeping_members(begin, layer):
    """A message sent by any of the three layers wakes all processes with members."""
    members, sender = [begin() for _ in range(3)], begin(layer)
    for member in members:
        join(member)
    sender.do("group_send", group="room", message={"type": "hello"})
    heard = [member.received()["received"] for member in members]
    assert heard[0]["type"] == "hello"
    assert heard == heard[:1] * 3


def commits(folder: Path) -> int:
    """How many the write-ahead log has (sqlite.org/fileformat2.html, 4.1)."""
    log = (folder / "default.sqlite3-wal").read_bytes()
    page_size, salts = int.from_bytes(log[8:12], "big"), log[16:24]
    frames = (log[at : at + 24] for at in range(32, len(log), 24 + page_size))
    return sum(frame[8:16] == salts and frame[4:8] != bytes(4) for frame in frames)


def count_rows(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "default.sqlite3")) as connection:
        return connection.execute("SELECT count(*) FROM channels_lite_groupmessage").fetchone()[0]


@pytest.mark.usefixtures("write_ahead_log")
def test_message_is_one_row_and_one_commit_and_wakes_each_process_once(begin, folder):
    """However many processes have members, and however many these are."""
    members, sender = [begin() for _ in range(8)], begin()
    for member in members:
        for _ in range(3):
            join(member, count=2)
    sender.do("group_send", group="room", message={"number": 1})
    for member in members:
        member.messages(3)
    before = [member.do("counts") for member in members]
    rows, committed = count_rows(folder), commits(folder)
    sender.do("group_send", group="room", message={"number": 2})
    for member, counted in zip(members, before, strict=True):
        member.messages(3)
        assert member.do("counts")["wakes"] == counted["wakes"] + 1
    assert count_rows(folder) == rows + 1
    assert commits(folder) == committed + 1


@pytest.mark.usefixtures("write_ahead_log")
@pytest.mark.parametrize("command", ["create_group_message", "raw_group_message"])
def test_rows_of_other_code_wake_at_commit(begin, command):
    """GroupMessage.objects.create(), and an INSERT on a Django cursor: once committed, or never."""
    member, writer = begin(), begin("core.SQLiteChannelLayer")
    join(member, count=2)
    for is_error, kind in ((True, "void"), (False, "real")):
        writer.do("begin")
        writer.do(command, group="room", message={"type": kind})
        committed = writer.do("end", is_error=is_error)
    said = member.received()
    assert said["received"]["type"] == "real"
    assert said["at"] > committed
    writer.do(command, group="room", message={"type": "in autocommit"})
    assert member.received()["received"]["type"] == "in autocommit"


def test_sender_killed_after_its_commit_loses_nothing(begin):
    """Nobody was woken: the fallback look finds the message."""
    member, sender = begin(polling_interval=0.5), begin()
    join(member, count=2)
    sender.do("group_send", group="room", message={"number": 1})
    assert member.received()["received"]["number"] == 1
    sender.do("stop_at", point="after_commit")
    sender.begin("group_send", group="room", message={"number": 2})
    sender.wait_until_stopped()
    sender.kill()
    assert member.received()["received"]["number"] == 2


@pytest.mark.parametrize("layer", LAYERS)
def test_client_of_a_killed_process_continues_in_another(begin, layer):
    """Whatever moment it was killed in, and while others send: each once, in order."""
    sender, first = begin(layer), begin(layer)
    _, (_, after) = join(first)
    sender.begin("send_steadily", channel="room", seconds=8, every=0.005, to_group=True)
    got = [first.received()["received"]]
    first.kill()
    for _ in range(6):
        member = begin(layer)
        _, (is_complete, position) = join(member, count=10_000, after=got[-1]["history_id"])
        assert is_complete
        assert position == got[-1]["history_id"]
        got += member.messages(random.randrange(1, 50))
        member.kill()
    taken = sender.finish()["taken"]
    history = sender.do("group_history", group="room", after=after)
    assert [message["number"] for message in history["messages"]] == taken
    assert got == history["messages"][: len(got)]


def test_forked_child_has_members_of_its_own(begin):
    """Both get what is sent; neither takes anything from the other."""
    parent = begin()
    join(parent)
    child = parent.do("fork_and_join", group="room")["child"]
    assert child["received"]["from"] == "the child"
    assert parent.received()["received"]["from"] == "the child"
