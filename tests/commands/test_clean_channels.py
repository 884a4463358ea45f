"""manage.py clean_channels."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from channels.layers import channel_layers
from django.core.management import CommandError, call_command

from channels_lite.models import Event, GroupMembership
from tests.conftest import LAYERS, use_database
from tests.processes.conftest import TIMEOUT, child_environment, empty_database, folder, start

__all__ = ["empty_database", "folder", "start"]

MANY = """
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1200)
    INSERT INTO channels_lite_event (channel_name, recipients, data, created_at, expires_at)
    SELECT 'channel', '', x'80', 0, 1 FROM numbers
"""


@pytest.fixture(params=["core", "aio", "notify"])
def configured(request, settings, database):
    """CHANNEL_LAYERS with that layer."""
    backend = f"{LAYERS[request.param].__module__}.{LAYERS[request.param].__name__}"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"database": "channels"}}}
    yield
    asyncio.run(channel_layers["default"].close())


@pytest.mark.parametrize("options", [{}, {"no_vacuum": True}])
def test_expired_rows_are_deleted(configured, options):
    """What has expired goes, more of it than one step takes, and what waits stays."""
    now = time.time()
    Event.objects.bulk_create(
        Event(channel_name="channel", data=b"", expires_at=now - 1) for _ in range(1200)
    )
    kept = Event.objects.create(channel_name="channel", data=b"")
    for name, expires_at in (("old", now - 1), ("new", now + 60)):
        GroupMembership.objects.create(group_name=name, channel_name="c", expires_at=expires_at)
    said = io.StringIO()
    call_command("clean_channels", stdout=said, **options)
    assert said.getvalue() == "layer 'default': 1201 expired rows deleted\n"
    assert list(Event.objects.all()) == [kept]
    assert [each.group_name for each in GroupMembership.objects.all()] == ["new"]


@pytest.mark.parametrize("mode", ["INCREMENTAL", "NONE"], ids=["own", "shared"])
def test_file_becomes_small(configured, database, mode):
    """By steps in a database of the channels' own, else by a VACUUM."""
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(f"PRAGMA auto_vacuum = {mode}; VACUUM")
        connection.execute(MANY.replace("x'80'", "zeroblob(4000)"))
        connection.commit()
    call_command("clean_channels", no_vacuum=True, stdout=io.StringIO())
    assert database.stat().st_size > 3_000_000
    call_command("clean_channels", stdout=io.StringIO())
    assert database.stat().st_size < 100_000


def test_progress_is_drawn_on_a_terminal(folder, start):
    """A bar goes to its end where somebody looks, and leaves one line."""
    child = start()
    child.do("execute", sql=MANY)
    terminal, end = pty.openpty()
    cleaning = subprocess.Popen(
        [sys.executable, "-m", "django", "clean_channels"],
        env=child_environment(folder, COLUMNS="100", TERM="xterm"),
        stdout=end,
        stderr=subprocess.PIPE,
    )
    os.close(end)
    seen = b""
    while b"expired rows deleted" not in seen:
        seen += os.read(terminal, 65536)
    assert (cleaning.communicate(timeout=TIMEOUT)[1], cleaning.returncode) == (b"", 0)
    os.close(terminal)
    assert b"100%" in seen
    assert b"1200 expired rows deleted" in seen


def test_missing_tables_are_one_line(configured, tmp_path):
    """Without tables the command fails with a hint."""
    path = tmp_path / "empty.sqlite3"
    use_database("channels", path)
    with pytest.raises(CommandError, match=r"run manage\.py migrate channels_lite --database=cha"):
        call_command("clean_channels")
    assert not path.exists()
    path.touch()
    with pytest.raises(CommandError, match=r"lacks the tables .* run manage\.py migrate"):
        call_command("clean_channels")


def test_foreign_layers_are_none_of_ours(settings):
    """Without a layer of this package there is nothing to clean."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with pytest.raises(CommandError, match="no layer of channels_lite"):
        call_command("clean_channels")
