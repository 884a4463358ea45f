"""Each statement is served by an index, and ids are never used again."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from channels_lite.models import Event, GroupMembership
from channels_lite.store import rooms, sql, upkeep

BY_CHANNEL = "USING INDEX channels_lite_event_channel"
COVERING = "USING COVERING INDEX channels_lite_event_channel"
BY_GROUP = "INDEX channels_lite_groupmembership_group_name_channel_name"


@pytest.fixture
def execute(database):
    """An ``Execute`` on a connection of its own, with no transaction but those that it is told."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield lambda statement, parameters: connection.execute(statement, parameters).fetchall()


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


def test_what_was_flushed_is_not_given_back(execute):
    """A claim that is given up after a flush() does not bring its message back."""
    upkeep.flush(execute, 1.0, "boot", 0.0)
    [(taken,)] = execute(sql.INSERT, (0.0, 9e9, "jobs", "", b""))
    execute(sql.DELETE_ROW, (taken, "jobs"))
    claimed = sql.Claimed(taken, b"", 9e9, 0.0)
    sql.release(execute, sql.Release(unclaimed=[("jobs", claimed)]))
    assert execute("SELECT id FROM channels_lite_event", ()) == [(taken,)]
    upkeep.flush(execute, 2.0, "boot", 0.0)
    sql.release(execute, sql.Release(unclaimed=[("jobs", claimed)]))
    assert execute("SELECT id FROM channels_lite_event", ()) == []


def test_ids_that_began_anew_are_not_deleted(execute):
    """Who received a row before ids began anew does not touch another's of that id."""
    [(taken,)] = execute(sql.INSERT, (0.0, 9e9, "jobs", "", b""))
    sql.release(execute, sql.Release(park=[(taken, "p.mine!")], received=[(taken, "p.mine!a")]))
    assert execute("SELECT channel_name FROM channels_lite_event", ()) == [("jobs",)]


def test_claims_that_fail_take_nothing(execute):
    """A look that claims for several channels, and fails at one, leaves the rows of all."""

    def execute_or_fail(statement, parameters):
        if statement == sql.CLAIM and parameters[0] == "second":
            raise sqlite3.OperationalError("disk I/O error")
        return execute(statement, parameters)

    for name in ("first", "second"):
        execute(sql.INSERT, (0.0, 9e9, name, "", b""))
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        sql.look(execute_or_fail, sql.Look(now=1.0, cursors={}, wanted={"first": 1, "second": 1}))
    assert Event.objects.count() == 2


def test_what_is_given_back_after_ids_began_anew_replaces_nobody(execute):
    """Its id is another message's by now, which stays; it was flushed itself."""
    [(taken,)] = execute(sql.INSERT, (0.0, 9e9, "jobs", "", b"new"))
    unclaimed = [("jobs", sql.Claimed(taken, b"old", 9e9, 0.0))]
    looked = sql.look(execute, sql.Look(1.0, {}, wanted={"jobs": 2}, unclaimed=unclaimed))
    assert [row.data for row in looked.claimed["jobs"]] == [b"new"]
