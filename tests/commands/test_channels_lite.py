"""manage.py channels_lite, as an operator calls it: in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.processes.conftest import TIMEOUT, child_environment, empty_database, folder, start

__all__ = ["empty_database", "folder", "start"]

CORE = {"TEST_LAYER": "core.SQLiteChannelLayer"}
POLLING = {"TEST_WITHOUT_EXTENSION": "1"}


@pytest.fixture
def manage(folder):
    """Runs it; the exit status, and what it said on standard output and on standard error."""

    def manage(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "django", "channels_lite", *arguments],
            env=child_environment(folder, **environment),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return manage


@pytest.mark.parametrize(
    ("environment", "code", "expected"),
    [
        ({}, 0, "sleep until they are woken"),
        (CORE, 1, "poll every 0.1 s"),
        (POLLING, 1, "the C extension is missing"),
    ],
    ids=["notify", "core", "polling"],
)
def test_doctor_sends_messages(manage, folder, environment, code, expected):
    """All three ways of a message are tried; 1 and a hint where it is not what it could be."""
    environment = {"TEST_CONFIG": '{"polling_interval": 0.1}'} | environment
    status, said, complaint = manage("doctor", **environment)
    assert (status, complaint.count("Traceback")) == (code, 0), said + complaint
    assert said.count(" ms to another process") == 3
    assert expected in said
    if code:
        assert "to fix" in complaint
    findings = json.loads(manage("doctor", "--json", **environment)[1])
    assert {"layer", "SQLite", "extension", "journal", "self-test"} <= {
        each["subject"] for each in findings
    }
    assert not (folder / "default.sqlite3-wake").exists()


def test_doctor_tries_a_history(manage, monkeypatch):
    """A group that the first glob names: a message comes, and comes again after its position."""
    history = {"room_*": {"messages": 9, "seconds": 60}}
    monkeypatch.setenv("TEST_CONFIG", json.dumps({"group_history": history}))
    status, said, complaint = manage("doctor")
    assert "room_channels-lite-doctor: a message came, and again" in said, said + complaint
    assert "histories" in manage("status")[1]
    assert status in (0, 1)


def test_status_says_what_waits_and_who_receives(manage, start, folder):
    """As tables, and as JSON; a database that nobody has open is not touched."""
    receiver = start()
    receiver.do("receive", channel="mails")
    receiver.do("create_event", channel="thumbnails", message={})
    status, said, _ = manage("status")
    assert status == 0
    for word in ("thumbnails", "mails", str(receiver.pid)):
        assert word in said
    taken = json.loads(manage("status", "--json")[1])
    assert [(each["name"], each["waiting"]) for each in taken["channels"]] == [("thumbnails", 1)]
    receiver.end()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert manage("status")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_status_is_watched(folder, start):
    """It is drawn again and again, with rates, until Ctrl-C, which is no error."""
    child = start()
    terminal, end = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "django", "channels_lite", "status", "--watch", "0.1"],
        env=child_environment(folder, COLUMNS="100", TERM="xterm"),
        stdout=end,
        stderr=subprocess.PIPE,
        # A shell's background jobs, and so what they start, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    os.close(end)
    seen = b""
    while seen.count(b"stored so far") < 4 or not re.search(rb" [1-9]\d*/s +0/s", seen):
        child.do("create_event", channel="thumbnails", message={})
        seen += os.read(terminal, 65536)
    watching.send_signal(signal.SIGINT)
    with suppress(OSError):  # EIO: its end of the terminal is closed
        while os.read(terminal, 65536):  # or it would wait for room to write
            pass
    _, complaint = watching.communicate(timeout=TIMEOUT)
    assert (watching.returncode, complaint) == (0, b"")
    assert b"/s now" in seen
    os.close(terminal)


def test_bench_measures_two_processes(manage):
    """Both figures, of this layer."""
    status, said, complaint = manage("bench", "--count", "50", "--json")
    assert status == 0, complaint
    measured = json.loads(said)["default"]
    assert all(figure > 0 for figure in measured.values())


@pytest.mark.parametrize("subcommand", ["status", "doctor", "bench"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "migrate"), (b"", "migrate"), (b"these are my notes" * 100, "not a SQLite database")],
)
def test_what_is_no_database_is_said(manage, folder, subcommand, content, expected):
    """A missing file, one without tables, one that is something else: a hint, and no file."""
    path = folder / "default.sqlite3"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    status, said, complaint = manage(subcommand)
    assert status == 1
    assert expected in said + complaint
    assert "Traceback" not in complaint
    assert complaint.count("\n") <= 2
    assert not content or path.read_bytes() == content
    assert path.exists() == (content is not None)


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["status", "--layer", "other"], {}, "its channels_lite layers: default"),
        (["bench", "--redis", "redis://127.0.0.1:1"], {}, "redis: "),
        ([], {}, "arguments are required"),
        (["status", "--watch", "-1"], {}, "must be above 0"),
        (["status", "--json", "--watch", "1"], {}, "cannot be used together"),
        (["bench", "--count", "0"], {}, "must be 1 or more"),
        (["doctor"], {"TEST_LAYER": "notif.NotifyChannelLayer"}, "cannot be imported"),
        (["status"], {"TEST_NAME": ":memory:"}, "is in memory"),
        (["status"], {"TEST_NAME": "/nowhere/channels.sqlite3"}, "does not exist: create it"),
        (["doctor"], {"TEST_NAME": "/tmp"}, "to fix"),
        (["bench"], {"TEST_CONFIG": '{"capacity": 0}'}, "CONFIG['capacity'] must be a positive"),
    ],
)
def test_wrong_arguments_are_said(manage, arguments, environment, expected):
    """One line, and exit status 1 or 2."""
    status, _, complaint = manage(*arguments, **environment)
    assert status in (1, 2)
    assert expected in complaint
    assert "Traceback" not in complaint


def test_locked_database_is_said(manage, folder, start):
    """Who waits for a lock in vain hears of it; looking needs none."""
    holder = start("core.SQLiteChannelLayer")
    holder.do("begin")
    holder.do("create_event", channel="jobs", message={})
    options = {"TEST_OPTIONS": '{"timeout": 0.2}'}
    status, said, complaint = manage("doctor", **options)
    assert (status, "Traceback" in complaint) == (1, False)
    assert "find what holds its lock" in said
    assert manage("status", **options)[0] == 0
