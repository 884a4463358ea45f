"""Rows are written by an application, in its own ways; its receivers sleep."""

from __future__ import annotations

import json

import pytest

from tests.chaos.conftest import wait_until

LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]
SOON = json.dumps({"polling_interval": 0.3})
#: A minute until the fallback look, so what comes has come by a wake-up; or there is none.
KINDS = {
    "notify": {},
    "no hooks": {"TEST_WITHOUT_HOOKS": "1", "TEST_CONFIG": SOON},
    "polling": {"TEST_WITHOUT_EXTENSION": "1", "TEST_CONFIG": SOON},
}


@pytest.fixture(params=KINDS)
def environment(request):
    """Of the processes."""
    return KINDS[request.param]


def create(writer, number, channel="jobs"):
    writer.do("create_event", channel=channel, message={"number": number})


def numbers(receiver, count):
    return [message["number"] for message in receiver.messages(count)]


@pytest.mark.parametrize("frames", [0, 1])
def test_44_application_sets_the_automatic_checkpoint(start, environment, folder, frames):
    """Its PRAGMA takes the place of our hook: messages come all the same, and it gets its way."""
    receiver, writer = start(**environment), start("core.SQLiteChannelLayer", **environment)
    receiver.do("receive", channel="jobs", count=4)
    create(writer, 0)
    assert numbers(receiver, 1) == [0]
    writer.do("execute", sql=f"PRAGMA wal_autocheckpoint = {frames}")
    for number in (1, 2):
        create(writer, number)
    assert numbers(receiver, 2) == [1, 2]
    create(writer, "nobody reads this", channel="others")
    is_checkpointed = b"nobody reads this" in (folder / "default.sqlite3").read_bytes()
    assert is_checkpointed == bool(frames)
    create(writer, 3)
    assert numbers(receiver, 1) == [3]


def test_45_rolled_back_is_not_delivered(start, environment, query):
    """A savepoint, or all: what is committed beside it and after it comes, and nothing else."""
    receiver, writer = start(**environment), start("core.SQLiteChannelLayer", **environment)
    receiver.do("receive", channel="jobs", count=10)
    writer.do("begin")
    create(writer, 0)
    writer.do("begin")
    create(writer, "void")
    writer.do("end", is_error=True)
    create(writer, 1)
    writer.do("end")
    writer.do("begin")
    create(writer, "void")
    writer.do("end", is_error=True)
    writer.do("begin")
    writer.do("begin")
    create(writer, 2)
    writer.do("end")
    writer.do("end")
    assert numbers(receiver, 3) == [0, 1, 2]
    create(writer, 3)
    assert numbers(receiver, 1) == [3]
    assert query("SELECT count(*) FROM channels_lite_event") == [(0,)]


@pytest.mark.parametrize("layer", LAYERS)
def test_45_rolled_back_sends_are_not_delivered(start, layer):
    """The same for send() and group_send() by each layer, to a channel of another process."""
    receiver, view = start(TEST_CONFIG=SOON), start(layer, TEST_CONFIG=SOON)
    channel = receiver.do("new_channel")
    receiver.do("group_add", group="room", channel=channel)
    receiver.do("receive", channel=channel, count=10)
    view.do("begin")
    view.do("sync_send", channel=channel, message={"number": 0})
    view.do("begin")
    view.do("sync_send", channel=channel, message={"number": "void"})
    view.do("sync_group_send", group="room", message={"number": "void"})
    view.do("end", is_error=True)
    view.do("sync_group_send", group="room", message={"number": 1})
    view.do("end")
    view.do("sync_send", channel=channel, message={"number": 2})
    assert numbers(receiver, 3) == [0, 1, 2]


def test_45_unfetched_returning(start, environment):
    """Its row comes when the statement is over, by the fallback look, and not before."""
    environment = environment | {"TEST_CONFIG": SOON}
    receiver, writer = start(**environment), start("core.SQLiteChannelLayer", **environment)
    receiver.do("receive", channel="jobs", count=10)
    writer.do("insert_unfetched", channel="jobs", message={"number": 0})
    receiver.do("count_looks")
    wait_until(lambda: receiver.do("usage")["looks"] >= 2)
    assert not receiver.has_received()
    writer.do("close_cursors")
    assert numbers(receiver, 1) == [0]
    create(writer, 1)
    assert numbers(receiver, 1) == [1]


def test_45_unfetched_returning_killed(start, environment):
    """Who is killed in its midst has committed nothing, and its lock is free at once."""
    receiver, killed = start(**environment), start("core.SQLiteChannelLayer", **environment)
    writer = start("core.SQLiteChannelLayer", **environment)
    receiver.do("receive", channel="jobs", count=10)
    killed.do("insert_unfetched", channel="jobs", message={"number": "void"})
    writer.begin("create_event", channel="jobs", message={"number": 0})
    killed.kill()
    writer.finish()
    create(writer, 1)
    assert numbers(receiver, 2) == [0, 1]


@pytest.mark.parametrize("waiting", [[], ["waits"]], ids=["ids begin anew", "rows wait"])
def test_47_table_is_rebuilt(start, environment, waiting):
    """As migrations do it: what waits comes once, and those who wrote and read before go on."""
    receiver, sender = start(**environment), start(**environment)
    writer, migrator = (start("core.SQLiteChannelLayer", **environment) for _ in range(2))
    channel = receiver.do("new_channel")
    for name in ("jobs", channel):
        receiver.do("receive", channel=name, count=20)
    create(writer, "before")
    create(migrator, "before")
    sender.do("send", channel=channel, message={"number": "before"})
    assert numbers(receiver, 3) == ["before"] * 3
    for number in waiting:
        create(writer, number, channel="later")
    before = writer.do("usage")
    migrator.do("rebuild_table")
    for number, each in enumerate((writer, migrator)):
        create(each, number)
        assert numbers(receiver, 1) == [number]
    for number, name in enumerate(("jobs", channel)):
        sender.do("send", channel=name, message={"number": number})
        assert numbers(receiver, 1) == [number]
    create(writer, "last", channel="later")
    receiver.do("receive", channel="later", count=5)
    assert numbers(receiver, len(waiting) + 1) == [*waiting, "last"]
    assert writer.do("usage") == before
