"""A database of channels-lite 0.4.0 is upgraded by migrate."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command
from django.db import connections

from channels_lite.models import Event, GroupMembership
from tests.conftest import use_database

FOLDER_TIME = "%Y-%m-%d %H:%M:%S.%f"


def test_models_need_no_migration(database):
    """makemigrations finds nothing to do."""
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


@pytest.mark.parametrize("use_tz", [True, False], ids=["UTC", "local time"])
def test_rows_of_040_are_kept(tmp_path, settings, use_tz):
    """Waiting messages and groups are kept with their expiry, delivered ones are gone."""
    settings.TIME_ZONE = "America/New_York"
    settings.USE_TZ = use_tz
    path = tmp_path / "old.sqlite3"
    use_database("channels", path)
    call_command("migrate", "channels_lite", "0001", database="channels", verbosity=0)
    connections["channels"].close()
    expires = datetime.now(timezone.utc).replace(microsecond=250_000) + timedelta(seconds=60)
    written = expires if use_tz else expires.astimezone(ZoneInfo("America/New_York"))
    text = written.strftime(FOLDER_TIME)
    with closing(sqlite3.connect(path)) as connection, connection:
        for channel, is_delivered in (("jobs", False), ("jobs", True), ("specific.dead!", False)):
            connection.execute(
                "INSERT INTO channels_lite_event"
                " (created_at, expires_at, channel_name, data, delivered) VALUES (?, ?, ?, ?, ?)",
                (text, text, channel, b'{"type": "x"}', is_delivered),
            )
        for channel in ("jobs", "specific.dead!browser"):
            connection.execute(
                "INSERT INTO channels_lite_groupmembership"
                " (group_name, channel_name, expires_at, joined_at) VALUES ('g', ?, ?, ?)",
                (channel, text, text),
            )
    connection.close()
    call_command("migrate", database="channels", verbosity=0)
    with connections["channels"].cursor() as cursor:
        cursor.execute("SELECT channel_name, data, expires_at FROM channels_lite_event")
        [(channel, data, moment)] = cursor.fetchall()
        assert (channel, bytes(data)) == ("jobs", b'{"type": "x"}')
        assert moment == pytest.approx(expires.timestamp(), abs=0.01)
    [event] = Event.objects.all()
    assert event.expires_at.timestamp() == pytest.approx(expires.timestamp(), abs=0.01)
    [member] = GroupMembership.objects.all()
    assert (member.group_name, member.channel_name) == ("g", "jobs")
    assert member.expires_at.timestamp() == pytest.approx(expires.timestamp(), abs=0.01)
    connections["channels"].close()


@pytest.mark.parametrize(("table", "mode"), [(None, 2), ("shop_order", 0)], ids=["own", "shared"])
def test_own_database_can_give_pages_back(tmp_path, table, mode):
    """A database that has others' tables, too, is not rebuilt."""
    path = tmp_path / "channels.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute(f"CREATE TABLE {table or 'django_migrations_old'} (id)")
        if table is None:
            connection.execute("DROP TABLE django_migrations_old")
    use_database("channels", path)
    call_command("migrate", database="channels", verbosity=0)
    connections["channels"].close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (mode,)
