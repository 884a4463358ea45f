"""What `manage.py check` says of the machine.  Faults 24 and 41."""

from __future__ import annotations

import sqlite3

import pytest

from channels_lite import checks

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
