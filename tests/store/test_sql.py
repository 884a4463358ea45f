"""Each statement is served by an index, and ids are never used again."""

from __future__ import annotations

import sqlite3

import pytest

from channels_lite.models import Event, GroupMembership
from channels_lite.store import rooms, sql

BY_CHANNEL = "USING INDEX channels_lite_event_channel"
COVERING = "USING COVERING INDEX channels_lite_event_channel"
BY_GROUP = "INDEX channels_lite_groupmembership_group_name_channel_name"


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (rooms.COUNT, COVERING),
        (sql.READ, BY_CHANNEL),
        (sql.IS_WAITING, BY_CHANNEL),
        (sql.CLAIM, BY_CHANNEL),
        (sql.DELETE_READ, BY_CHANNEL),
        (rooms.DROP_EXPIRED, BY_CHANNEL),
        (sql.MEMBERS, BY_GROUP),
        (sql.LEAVE, BY_GROUP),
    ],
)
def test_statement_uses_its_index(database, statement, index):
    """No hot statement reads the whole table, and those by channel do not sort."""
    connection = sqlite3.connect(database)
    parameters = [None] * statement.count("?")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    connection.close()
    assert any(index in step for step in plan), plan
    scans = [step for step in plan if step.startswith("SCAN channels_lite")]
    assert not scans, plan
    if statement != sql.MEMBERS:
        assert not any("TEMP B-TREE" in step for step in plan), plan


def test_ids_are_never_used_again(database):
    """After all rows are deleted the next one still gets a higher id."""
    first = Event.objects.create(channel_name="x", data=b"")
    Event.objects.all().delete()
    assert Event.objects.create(channel_name="x", data=b"").pk > first.pk


def test_statements_name_the_models_tables():
    """The SQL and the models agree on names."""
    assert Event._meta.db_table in sql.INSERT
    assert GroupMembership._meta.db_table in sql.JOIN
