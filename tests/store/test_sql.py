"""Each statement is served by an index, and ids are never used again."""

from __future__ import annotations

import re
import sqlite3

import pytest

from channels_lite.models import Event, GroupMembership
from channels_lite.store import occupancy, sql, upkeep

BY_CHANNEL = "USING INDEX channels_lite_event_channel"
COVERING = "USING COVERING INDEX channels_lite_event_channel"
BY_GROUP = "INDEX channels_lite_groupmembership_group_name_channel_name"


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (occupancy.COUNT, COVERING),
        (sql.READ, BY_CHANNEL),
        (sql.SIZE, BY_CHANNEL),
        (sql.SIZES, BY_CHANNEL),
        (sql.OLDEST, COVERING),
        (sql.NAMES, COVERING),
        (sql.WAITING, BY_CHANNEL),
        (sql.CLAIM, BY_CHANNEL),
        (sql.DELETE_READ, BY_CHANNEL),
        (occupancy.DROP_EXPIRED, BY_CHANNEL),
        (sql.MEMBERS, BY_GROUP),
        (sql.LEAVE, BY_GROUP),
    ],
)
def test_statement_uses_its_index(database, statement, index):
    """No hot statement reads the whole table, and those by channel do not sort."""
    connection = sqlite3.connect(database)
    parameters = [None] * (1 if "?1" in statement else statement.count("?"))
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    connection.close()
    assert any(index in step for step in plan), plan
    # The table of boots has one row.
    scans = [step for step in plan if re.match("SCAN channels_lite_(?!boot)", step)]
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


def insert(execute, channel, data=b""):
    """A row; its id."""
    [(row, _)] = execute(sql.INSERT, (0.0, 9e9, channel, "", False, data))
    return row


def boot(execute):
    """The generation that begins."""
    return upkeep.begin_boot(execute, "boot", 0.0, is_alone=True).generation


def test_what_was_flushed_is_not_given_back(execute):
    """A claim that is given up after a flush() does not bring its message back."""
    generation = boot(execute)
    upkeep.flush(execute, 1.0, "boot", 0.0)
    taken = insert(execute, "jobs")
    execute("DELETE FROM channels_lite_event", ())
    claimed = sql.Claimed(taken, b"", 9e9, 0.0, generation)
    sql.requeue(execute, [("jobs", claimed)])
    assert execute("SELECT id FROM channels_lite_event", ()) == [(taken,)]
    upkeep.flush(execute, 2.0, "boot", 0.0)
    sql.requeue(execute, [("jobs", claimed)])
    assert execute("SELECT id FROM channels_lite_event", ()) == []


@pytest.mark.parametrize("what", ["another generation", "ids that began anew"])
def test_what_was_read_before_ids_began_anew_deletes_nobody(execute, what):
    """A release that comes late does not touch a new row by an old cursor."""
    generation = boot(execute)
    name = "p.mine!"
    last = 7 if what == "ids that began anew" else insert(execute, name)
    if what == "another generation":
        sql.renew(execute, generation)
    else:
        insert(execute, name)
    sql.acknowledge(execute, sql.Acknowledgement(generation, {name: last}))
    assert execute("SELECT channel_name FROM channels_lite_event", ()) == [(name,)]
    now = sql.table(execute)
    sql.acknowledge(execute, sql.Acknowledgement(now.generation, {name: now.last_id}))
    assert execute("SELECT channel_name FROM channels_lite_event", ()) == []


def test_claims_that_fail_take_nothing(execute):
    """Claims for several channels, of which one fails, leave the rows of all."""

    def execute_or_fail(statement, parameters):
        if statement == sql.CLAIM and parameters[0] == "second":
            raise sqlite3.OperationalError("disk I/O error")
        return execute(statement, parameters)

    for name in ("first", "second"):
        insert(execute, name)
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        sql.claim(execute_or_fail, {"first": 1, "second": 1}, 1.0, is_in_transaction=False)
    assert Event.objects.count() == 2


@pytest.mark.parametrize(("wanted", "left"), [(1, {"jobs"}), (2, set()), (3, set())])
def test_a_claim_tells_whether_rows_are_left(execute, wanted, left):
    """By the statement that took them: if a later one failed, they would be lost."""
    statements = []

    def execute_and_note(statement, parameters):
        statements.append(statement)
        return execute(statement, parameters)

    for _ in range(2):
        insert(execute, "jobs")
    found = set()
    sql.claim(execute_and_note, {"jobs": wanted}, 1.0, found, is_in_transaction=False)
    assert found == left
    assert [each for each in statements if each != sql.CLAIM] in (
        [sql.WAITING],
        [sql.WAITING, "BEGIN IMMEDIATE", "COMMIT"],
    )


def test_what_was_claimed_of_a_former_generation_is_not_given_back(execute):
    """It was flushed with that."""
    generation = boot(execute)
    insert(execute, "jobs")
    [claimed] = sql.claim(execute, {"jobs": 1}, 1.0, is_in_transaction=False)["jobs"]
    assert claimed.generation == generation
    sql.renew(execute, generation)
    sql.requeue(execute, [("jobs", claimed)])
    assert Event.objects.count() == 0


def test_what_was_claimed_before_a_generation_began_is_given_back(execute):
    """As after `manage.py flush`, when the first message comes before anybody has asked."""
    insert(execute, "jobs")
    [claimed] = sql.claim(execute, {"jobs": 1}, 1.0, is_in_transaction=False)["jobs"]
    boot(execute)
    sql.requeue(execute, [("jobs", claimed)])
    assert Event.objects.count() == 1


def test_what_is_given_back_after_ids_began_anew_replaces_nobody(execute):
    """Its id is another message's by now, which stays; it was flushed itself."""
    generation = boot(execute)
    taken = insert(execute, "jobs", b"new")
    for each in (generation, 0):
        sql.requeue(execute, [("jobs", sql.Claimed(taken, b"old", 9e9, 0.0, each))])
    claimed = sql.claim(execute, {"jobs": 2}, 1.0, is_in_transaction=False)
    assert [row.data for row in claimed["jobs"]] == [b"new"]


def look(execute, **asked):
    now = sql.table(execute)
    asked = {"cursors": {}, "generation": now.generation, "last_id": 0} | asked
    return sql.look(execute, sql.Look(now=1.0, token="mine", **asked))


def test_large_rows_are_read_in_slices(execute):
    """So that no look holds the loop for long; a row that is larger still is read alone."""
    boot(execute)
    name, sizes = "p.mine!", [sql.READ_BYTES // 3] * 4 + [sql.READ_BYTES * 2, 10]
    for size in sizes:
        insert(execute, name, bytes(size))
    slices, cursor, is_all = [], 0, False
    while not is_all:
        looked = look(execute, names=[name], cursors={name: cursor})
        slices.append([len(row.data) for row in looked.rows[name]])
        cursor, is_all = looked.rows[name][-1].id, looked.is_all
    assert slices == [sizes[:3], sizes[3:4], sizes[4:5], sizes[5:]]


def test_large_rows_are_claimed_in_slices(execute):
    """The same for plain channels: one row at least, and not more than can be dealt with."""
    for size in [sql.READ_BYTES // 2 + 1] * 3:
        insert(execute, "jobs", bytes(size))
    claimed = [sql.claim(execute, {"jobs": 3}, 1.0, is_in_transaction=False) for _ in range(3)]
    assert [len(each["jobs"]) for each in claimed] == [1, 1, 1]


def test_many_names_are_found_by_their_rows(execute):
    """Of all names in the table those of this process, whatever others there are."""
    boot(execute)
    for name in ("a.mine!", "b.other!", "jobs", "c.mine!", "c.mine!", "d.notmine!x"):
        insert(execute, name)
    looked = look(execute, names=None)
    assert {name: len(rows) for name, rows in looked.rows.items()} == {"a.mine!": 1, "c.mine!": 2}


@pytest.mark.parametrize("asked", [{"generation": 5}, {"last_id": 9}])
def test_another_generation_is_noticed(execute, asked):
    """Before any row is read by cursors that mean nothing any more."""
    boot(execute)
    insert(execute, "p.mine!")
    looked = look(execute, names=["p.mine!"], **asked)
    assert looked.is_new
    assert looked.rows == {}
