"""Others hold the locks of the database, or it cannot be written at all."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.chaos.conftest import SCALE

LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]
SOON = json.dumps({"polling_interval": 0.3})
NOBODY = 65534


@pytest.fixture(params=LAYERS)
def layer(request):
    return request.param


@pytest.mark.parametrize("how", ["mode=ro", "permissions"])
def test_21_read_only(start, public_folder, layer, how):
    """The first send says so, and each one after it; the file is not touched."""
    if how == "permissions" and os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    path = public_folder / "default.sqlite3"
    before = path.read_bytes(), path.stat().st_mtime_ns
    name = f"file:{path}?mode=ro" if how == "mode=ro" else str(path)
    child = start(layer, TEST_CONFIG=SOON, TEST_FOLDER=str(public_folder), TEST_NAME=name)
    if how == "permissions":
        child.do("become", user=NOBODY)
    for _ in range(2):
        with pytest.raises(AssertionError, match=r"^StoreUnavailable: .* readonly database"):
            child.do("send", channel="jobs", message={})
    with pytest.raises(AssertionError, match=r"^StoreUnavailable: .* readonly database"):
        child.do("group_add", group="room", channel="jobs")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_22_locked_by_a_foreign_writer(start, folder, layer, ledger):
    """send() waits, then raises, and nobody else on its loop waits; then everything goes on."""
    timeout = max(1.0, 30 * SCALE)
    options = json.dumps({"timeout": timeout})
    receiver, sender = (start(layer, TEST_CONFIG=SOON, TEST_OPTIONS=options) for _ in range(2))
    mine = sender.do("describe")["prefix"]
    receiver.do("receive", channel="jobs", count=20)
    ledger.send(sender, mine, "jobs", 5)
    ledger.receive(receiver, count=5)
    with closing(sqlite3.connect(folder / "default.sqlite3", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE").fetchall()
        began = time.monotonic()
        sender.begin("send_beside", channel="jobs", message={"sender": mine, "number": "void"})
        sent = sender.finish(600)
        assert time.monotonic() - began >= timeout
        assert "StoreUnavailable" in sent["error"]
        assert "stayed locked" in sent["error"]
        # A loop that is held has one or two.
        assert sent["turns"] > 50
        writer.execute("ROLLBACK")
    ledger.send(sender, mine, "jobs", 5)
    ledger.receive(receiver, count=5)
    ledger.check()


def locks(pid: int, file: Path) -> list[str]:
    """What a process has locked of ``file``, by each descriptor of it, as the kernel tells it."""
    held = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if fd.readlink() == file:
                told = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
                held += re.findall(r"POSIX\s+ADVISORY\s+(READ|WRITE)", told)
    return held


def test_25_locks_are_kept(start, folder, layer):
    """Closing a descriptor drops all locks of its file, so nothing here opens it beside SQLite."""
    file = folder / "default.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        # Where locks are held between transactions, too.
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    child = start(layer, TEST_CONFIG=SOON)
    child.do("receive", channel="jobs", count=3)
    child.do("send", channel="jobs", message={})
    child.received()
    assert "READ" in locks(child.pid, file)
    channel = child.do("new_channel")
    for command, arguments in [
        ("look_after", {}),
        ("group_add", {"group": "room", "channel": channel}),
        ("group_send", {"group": "room", "message": {}}),
        ("sync_send", {"channel": "jobs", "message": {}}),
        ("checkpoint", {}),
        ("fork", {}),
        ("send", {"channel": "jobs", "message": {}}),
    ]:
        child.do(command, **arguments)
        assert "READ" in locks(child.pid, file), command
    child.messages(2)
    assert str(file) not in child.do("opens_by_hand")


def test_24_one_process_checkpoints(start, folder):
    """Who finds another process at it leaves it to that: two at once may corrupt the file."""
    child = start()
    channel = child.do("new_channel")
    child.do("receive", channel=channel, count=1)
    child.do("group_add", group="room", channel=channel)
    file = folder / "default.sqlite3"
    directory = os.open(folder / "default.sqlite3-wake", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        before = file.read_bytes()
        child.do("checkpoint")
        assert file.read_bytes() == before
    finally:
        os.close(directory)
    child.do("checkpoint")
    assert file.read_bytes() != before
