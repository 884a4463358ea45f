"""What `manage.py check` says of the machine.  Faults 24 and 41."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from types import ModuleType

import django
import pytest
from django.core.checks import run_checks
from django.db import connections

from channels_lite import checks
from channels_lite.wake.hooks import Hooks
from tests.conftest import use_database

MOUNTS = """\
22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
40 22 0:35 / {mounted} rw,relatime shared:1 - {kind} server:/export rw
"""


@pytest.mark.parametrize(("kind", "found"), [("nfs4", ["channels_lite.E003"]), ("xfs", [])])
def test_41_network_file_system_is_an_error(database, tmp_path, monkeypatch, kind, found):
    """The type of the mount that the file is on, not of one above it, decides."""
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS.format(mounted=database.parent, kind=kind))
    monkeypatch.setattr(checks, "MOUNTS", mounts)
    assert [error.id for error in checks.check_file_systems(None)] == found


def test_24_sqlite_with_the_reset_bug_is_named(monkeypatch):
    """Versions before 3.51.3 are told of, later ones not."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    assert [info.id for info in checks.check_sqlite(None)] == ["channels_lite.I001"]
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    assert checks.check_sqlite(None) == []


def test_25_second_sqlite_is_named(monkeypatch):
    """A package that brings its own is told of, unless it took the place of Python's."""
    assert checks.check_copies(None) == []
    monkeypatch.setitem(sys.modules, "apsw", ModuleType("apsw"))
    assert [warning.id for warning in checks.check_copies(None)] == ["channels_lite.W008"]
    monkeypatch.setattr(checks, "sqlite3", ModuleType("apsw"))
    assert checks.check_copies(None) == []


def layers(**databases):
    """A setting, of notify layers on these databases."""
    return {
        alias: {
            "BACKEND": "channels_lite.layers.notify.NotifyChannelLayer",
            "CONFIG": {"database": database},
        }
        for alias, database in databases.items()
    }


CORE = {
    "default": {
        "BACKEND": "channels_lite.layers.core.SQLiteChannelLayer",
        "CONFIG": {"database": "channels"},
    }
}


def found(*, deploy=True):
    """The ids that Django's own run of the checks comes to."""
    messages = run_checks(app_configs=None, include_deployment_checks=deploy)
    ids = {each.id.rpartition(".")[2] for each in messages if each.id.startswith("channels_lite.")}
    return ids - {"I001"}


def test_recommended_setup_passes(database):
    """With a database of their own, the router and the notify layer, nothing is to be mended."""
    assert found() == set()


def test_two_layers_on_one_database(database, settings):
    """W001: they would share groups."""
    settings.CHANNEL_LAYERS = layers(default="channels", other="channels")
    assert found() == {"W001"}
    settings.CHANNEL_LAYERS = layers(default="channels", other="default")
    assert "W001" not in found()
    use_database("default", database)  # another alias, the same file
    assert "W001" in found()
    use_database("default", "unused-default.sqlite3")


def test_missing_router(database, settings):
    """W002: messages made by the model would go to the default database."""
    settings.DATABASE_ROUTERS = []
    assert found(deploy=False) == {"W002"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "0001_initial"),
        (b"", "0001_initial"),
        (b"these are my notes", "not a SQLite database"),
    ],
)
def test_missing_tables(tmp_path, content, said):
    """W003, with --deploy alone: a file without tables, or none, which is not made."""
    path = tmp_path / "channels.sqlite3"
    if content is not None:
        path.write_bytes(content)
    use_database("channels", path)
    try:
        assert found(deploy=False) == set()
        assert "W003" in found()
        [warning] = checks.check_tables(None)
        assert said in warning.msg
    finally:
        connections["channels"].close()
    assert path.exists() == (content is not None)
    assert not path.exists() or path.read_bytes() == content


def test_tables_that_the_router_kept_out(database):
    """W003 also where migrations are noted as applied, as before CONFIG named this database."""
    assert checks.check_tables(None) == []
    for table, hint in (
        ("event", "delete the file and run migrate"),
        ("boot", "delete the file and run migrate"),
        ("groupmessage", "delete the file and run migrate"),
        ("grouphistory", "delete the file and run migrate"),
        ("groupmembership", "zero --fake --database=channels"),
    ):
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(f"DROP TABLE channels_lite_{table}")
        [warning] = checks.check_tables(None)
        assert warning.id == "channels_lite.W003"
        assert f"channels_lite_{table}" in warning.msg
        assert hint in warning.hint


def test_misspelt_backend(database, settings):
    """E001: no layer of ours would be found, and nothing else would say so."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_lite.layers.notif.Notify"}}
    [error] = checks.check_layers(None)
    assert (error.id, "layers.notif" in error.msg) == ("channels_lite.E001", True)


def test_config_that_is_none(database, settings):
    """E001: as Channels cannot make the layer."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": CORE["default"]["BACKEND"], "CONFIG": None}}
    assert "E001" in found(deploy=False)


def test_notify_layer_that_polls(database, settings, monkeypatch):
    """W009: what everybody uses is fast, but for this machine; other layers poll anyway."""
    monkeypatch.setattr(Hooks, "reason", "there is no compiler here")
    assert found() == {"W009"}
    settings.CHANNEL_LAYERS = CORE
    assert "W009" not in found()


def test_settings_of_djangos_connection(database, settings):
    """W005: where it is the one that messages go through, SQLite's default is slow."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    assert found() == set()  # the layers will set it
    settings.CHANNEL_LAYERS = CORE
    assert found() == {"W005"}


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django takes init_command from 5.1 on")
@pytest.mark.parametrize(
    ("init_command", "expected"),
    [
        ("PRAGMA journal_mode=WAL; PRAGMA synchronous = NORMAL", set()),
        ("PRAGMA journal_mode = DELETE", {"W004", "W005"}),
    ],
)
def test_init_command_is_read(database, settings, monkeypatch, init_command, expected):
    """What it sets is not asked for; nor is it run, by a check."""
    settings.CHANNEL_LAYERS = CORE
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", {"init_command": init_command})
    assert {each.id.rpartition(".")[2] for each in checks.check_journal(None)} == expected


@pytest.mark.parametrize(
    ("init_command", "expected"),
    [
        ("PRAGMA locking_mode = EXCLUSIVE", {"W010"}),
        ("pragma main.locking_mode=exclusive; PRAGMA locking_mode(normal)", set()),
        ("PRAGMA journal_mode = 'truncate'", {"W010"}),
        ("PRAGMA journal_mode('WAL'); PRAGMA busy_timeout = 5000", set()),
    ],
)
def test_init_command_that_works_against_us(
    database, settings, monkeypatch, init_command, expected
):
    """W010: what keeps other connections out, or takes the log away; the last word counts."""
    monkeypatch.setattr(checks, "is_wal", lambda alias: True)
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", {"init_command": init_command})
    assert {each.id.rpartition(".")[2] for each in checks.check_init_command(None)} == expected


def test_rollback_journal_is_told_of_once(database, monkeypatch):
    """W004 where the file has one already, so not W010 as well."""
    monkeypatch.setattr(checks, "is_wal", lambda alias: False)
    options = {"init_command": "PRAGMA journal_mode = DELETE"}
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", options)
    messages = checks.check_journal(None) + checks.check_init_command(None)
    assert [each.id for each in messages] == ["channels_lite.W004"]


def test_settings_that_mean_more_than_they_say(database, settings, monkeypatch):
    """W006 and W007: ATOMIC_REQUESTS, and CONN_MAX_AGE under ASGI."""
    monkeypatch.setitem(connections.settings["channels"], "ATOMIC_REQUESTS", True)
    monkeypatch.setitem(connections.settings["channels"], "CONN_MAX_AGE", 60)
    assert found() == {"W006"}
    settings.ASGI_APPLICATION = "project.asgi.application"
    assert found() == {"W006", "W007"}
