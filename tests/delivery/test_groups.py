"""The members of a group are read when they may have changed, and not otherwise."""

from __future__ import annotations

import queue
import sqlite3
from contextlib import closing

import pytest

from channels_lite.delivery import groups
from channels_lite.delivery.groups import Groups
from channels_lite.models import Event, GroupMembership
from channels_lite.store import sql, upkeep
from channels_lite.store.aio import AioStore
from channels_lite.store.direct import DirectStore
from channels_lite.store.django import DjangoStore
from tests.conftest import TIMEOUT

STORES = {"direct": DirectStore, "aio": AioStore, "django": DjangoStore}
NOW = 1000.0
COLUMNS = "channels_lite_groupmembership (group_name, channel_name, expires_at, joined_at)"
TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"


class Asker:
    """What a process is to the table of memberships: a store, and a memory of its own."""

    def __init__(self, kind):
        self.store = STORES[kind]("channels", 2)
        self.groups = Groups(self.store)
        #: The statements of the last question.
        self.statements = []

    def run(self, work, *, write=False):
        outcomes = queue.SimpleQueue()
        (self.store.transact if write else self.store.submit)(work, outcomes.put)
        return outcomes.get(timeout=TIMEOUT).result()

    def ask(self, group="group", now=NOW):
        """The group's members by full name, and whether they were read from the table."""
        self.statements = []

        def work(execute):
            def noted(statement, parameters):
                self.statements.append(statement)
                return execute(statement, parameters)

            return self.groups.members(noted, group, now)

        found = {
            member.name + recipient
            for member in self.run(work)
            for recipient in member.recipients.split(",")
        }
        return found, sql.MEMBERS in self.statements

    def join(self, channel, group="group", expires_at=NOW + 100):
        self.run(lambda execute: sql.join(execute, group, channel, NOW, expires_at), write=True)

    def leave(self, channel, group="group"):
        self.run(lambda execute: sql.leave(execute, group, channel), write=True)


@pytest.fixture(params=STORES)
def asker(request, database):
    """A process with that store, that knows a group of one."""
    made = Asker(request.param)
    made.join("p.a!1")
    assert made.ask() == ({"p.a!1"}, True)
    yield made
    made.store.close()


@pytest.fixture
def other(database):
    """A connection of somebody else's."""
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    with closing(connection):
        yield connection


def test_nothing_is_asked_while_nothing_changes(database):
    """One look at the database's own counters is all that a message to a group takes then."""
    asker = Asker("direct")
    asker.join("p.a!1")
    for is_read in (True, False, False):
        assert asker.ask() == ({"p.a!1"}, is_read)
    assert asker.statements == []
    asker.store.close()


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE IF NOT EXISTS orders (id); INSERT INTO orders VALUES (1)",
        "INSERT INTO channels_lite_event (created_at, expires_at, channel_name, recipients, data)"
        " VALUES (0, 1e10, 'p.a!', '1', x'')",
        f"REPLACE INTO {COLUMNS} VALUES ('another', 'p.b!1', 1e10, 0)",
    ],
    ids=["another table", "a message", "another group"],
)
def test_what_does_not_concern_the_group_does_not_have_it_read(asker, other, change):
    """One look-up, of this group's version, is all that it costs."""
    other.executescript(change)
    asker.ask()
    for _ in range(3):
        other.execute(change.rpartition(";")[2])
        assert asker.ask() == ({"p.a!1"}, False)
        assert asker.statements == [sql.SCHEMA_VERSION, sql.GROUP_VERSION]
    asker.join("p.a!2", group="a third")
    assert asker.ask() == ({"p.a!1"}, False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (f"INSERT INTO {COLUMNS} VALUES ('group', 'p.b!1', 1e10, 0)", {"p.a!1", "p.b!1"}),
        (f"INSERT OR IGNORE INTO {COLUMNS} VALUES ('group', 'p.b!1', 1e10, 0)", {"p.a!1", "p.b!1"}),
        (f"INSERT OR FAIL INTO {COLUMNS} VALUES ('group', 'p.b!1', 1e10, 0)", {"p.a!1", "p.b!1"}),
        (f"REPLACE INTO {COLUMNS} VALUES ('group', 'p.a!1', 1, 0)", set()),
        (
            f"INSERT INTO {COLUMNS} VALUES ('group', 'p.a!1', 1, 0)"
            " ON CONFLICT DO UPDATE SET expires_at = excluded.expires_at",
            set(),
        ),
        ("UPDATE channels_lite_groupmembership SET expires_at = 1", set()),
        ("UPDATE OR IGNORE channels_lite_groupmembership SET group_name = 'another'", set()),
        ("UPDATE OR REPLACE channels_lite_groupmembership SET channel_name = 'plain'", {"plain"}),
        ("DELETE FROM channels_lite_groupmembership", set()),
        ("DELETE FROM channels_lite_groupmembership WHERE channel_name LIKE 'p.a!%'", set()),
    ],
)
@pytest.mark.parametrize("setting", ["trusted_schema = OFF", "recursive_triggers = ON"])
def test_every_kind_of_sql_is_noticed(asker, other, change, expected, setting):
    """Whoever changes the members, in whatever way: the next message goes to those of then."""
    other.execute(f"PRAGMA {setting}")
    other.execute(change)
    assert asker.ask() == (expected, True)
    assert asker.ask() == (expected, False)


def test_both_groups_notice_a_move(asker, other):
    """A row that is given another group's name leaves the one, and is in the other."""
    assert asker.ask("another") == (set(), True)
    other.execute("UPDATE channels_lite_groupmembership SET group_name = 'another'")
    assert asker.ask() == (set(), True)
    assert asker.ask("another") == ({"p.a!1"}, True)


def test_models_are_noticed(asker):
    """By way of Django's models, too."""
    made = GroupMembership.objects.create(
        group_name="group", channel_name="p.b!1", expires_at=NOW + 100
    )
    assert asker.ask() == ({"p.a!1", "p.b!1"}, True)
    GroupMembership.objects.filter(pk=made.pk).update(channel_name="p.b!2")
    assert asker.ask() == ({"p.a!1", "p.b!2"}, True)
    made.refresh_from_db()
    made.channel_name = "p.b!3"
    made.save()
    assert asker.ask() == ({"p.a!1", "p.b!3"}, True)
    made.delete()
    assert asker.ask() == ({"p.a!1"}, True)
    GroupMembership.objects.all().delete()
    assert asker.ask() == (set(), True)


def test_expiry_ends_what_is_remembered(asker, other):
    """The list ends with its first member; whoever has expired, and is renewed, is there again."""
    asker.join("p.a!2", expires_at=NOW + 10)
    assert asker.ask() == ({"p.a!1", "p.a!2"}, True)
    assert asker.ask(now=NOW + 9) == ({"p.a!1", "p.a!2"}, False)
    assert asker.ask(now=NOW + 11) == ({"p.a!1"}, True)
    assert asker.ask(now=NOW + 12) == ({"p.a!1"}, False)
    other.execute("UPDATE channels_lite_groupmembership SET expires_at = 1e10")
    assert asker.ask(now=NOW + 13) == ({"p.a!1", "p.a!2"}, True)


@pytest.mark.parametrize("moment", [sql.SCHEMA_VERSION, sql.GROUP_VERSION, sql.MEMBERS])
def test_change_while_the_members_are_read(asker, other, moment):
    """Between two statements of a question anybody may commit: the next one finds it."""
    asker.join("p.a!2")

    def work(execute):
        def followed(statement, parameters):
            found = execute(statement, parameters)
            if statement == moment:
                other.execute(f"INSERT INTO {COLUMNS} VALUES ('group', 'p.b!1', 1e10, 0)")
            return found

        return asker.groups.members(followed, "group", NOW)

    asker.run(work)
    assert asker.ask()[0] == {"p.a!1", "p.a!2", "p.b!1"}


@pytest.mark.parametrize("lost", ["insert", "update", "delete"])
def test_lost_triggers_are_noticed(asker, other, lost):
    """Without one of them a change of the database, by whomever, has the members read."""
    other.execute(f"DROP TRIGGER channels_lite_groupversion_{lost}")
    assert asker.ask() == ({"p.a!1"}, True)
    other.execute("DELETE FROM channels_lite_groupmembership")
    other.execute(f"INSERT INTO {COLUMNS} VALUES ('group', 'p.b!1', 1e10, 0)")
    assert asker.ask() == ({"p.b!1"}, True)
    other.execute("UPDATE channels_lite_groupmembership SET channel_name = 'p.c!1'")
    assert asker.ask() == ({"p.c!1"}, True)
    Event.objects.create(channel_name="plain", data=b"")
    assert asker.ask() == ({"p.c!1"}, True)


def test_rebuilt_table_is_noticed(asker, other):
    """As after a migration that rebuilds it: triggers go with the table they are on."""
    other.executescript("""
        BEGIN;
        CREATE TABLE rebuilt AS SELECT * FROM channels_lite_groupmembership;
        DROP TABLE channels_lite_groupmembership;
        ALTER TABLE rebuilt RENAME TO channels_lite_groupmembership;
        COMMIT;
    """)
    other.execute(f"INSERT INTO {COLUMNS} VALUES ('group', 'p.b!1', 1e10, 0)")
    assert asker.ask() == ({"p.a!1", "p.b!1"}, True)
    other.execute("DELETE FROM channels_lite_groupmembership WHERE channel_name = 'p.a!1'")
    assert asker.ask() == ({"p.b!1"}, True)


def test_triggers_that_are_back_do_not_tell_of_the_time_without(asker, other):
    """What was read before they were lost is read again, whatever its version says."""
    found = other.execute(TRIGGERS).fetchall()
    for name, _ in found:
        other.execute(f"DROP TRIGGER {name}")
    other.execute(f"INSERT INTO {COLUMNS} VALUES ('group', 'p.b!1', 1e10, 0)")
    for _, statement in found:
        other.execute(statement)
    assert asker.ask() == ({"p.a!1", "p.b!1"}, True)
    assert asker.ask() == ({"p.a!1", "p.b!1"}, False)


def test_group_without_a_version_is_not_trusted(asker, other):
    """A sweep, or anybody, may delete the row: none is not the same as none before."""
    other.execute("DELETE FROM channels_lite_groupversion")
    assert asker.ask() == ({"p.a!1"}, True)
    other.execute("UPDATE channels_lite_groupmembership SET channel_name = 'p.b!1'")
    other.execute("DELETE FROM channels_lite_groupversion")
    assert asker.ask() == ({"p.b!1"}, True)


def test_one_list_of_every_group_at_most(asker, other, monkeypatch):
    """Those that were used longest ago are forgotten, one by one."""
    monkeypatch.setattr(groups, "LIMIT", 3)
    names = ["group", "first", "second", "third"]
    for name in names:
        asker.join("p.a!1", group=name)
        asker.ask(name)
        asker.ask("first")
    assert [asker.ask(name)[1] for name in ("first", "second", "third", "group")] == [
        False,
        False,
        False,
        True,
    ]
    assert asker.ask("first")[1]  # the oldest by then


def test_sweep_forgets_versions_of_groups_without_members(asker, other, monkeypatch):
    """Step by step, and without touching those that have members; names of any bytes."""
    monkeypatch.setattr(upkeep, "STEP", 3)
    for name in ("d", "a", "e", "b", "c", "f", "g"):
        asker.join("p.a!1", group=name)
    asker.join("p.a!1", group="expired", expires_at=1.0)
    insert = f"INSERT INTO {COLUMNS} VALUES (CAST(x'6fff' AS TEXT), 'p.a!1', 1, 0)"
    for statement in (insert, insert.replace("CAST(x'6fff' AS TEXT)", "x'6fff'")):
        other.execute(statement)
    for name in ("a", "b", "c", "d", "g"):
        asker.leave("p.a!1", group=name)
    sweep = upkeep.Sweep((), None)
    deleted = 0
    while not sweep.is_done:
        deleted += asker.run(lambda execute: sweep.step(execute, NOW))
    assert deleted == 3
    known = other.execute("SELECT group_name FROM channels_lite_groupversion").fetchall()
    assert known == [("e",), ("f",), ("group",), (b"\x6f\xff",)]
    assert asker.ask() == ({"p.a!1"}, False)


def test_sweep_where_nobody_keeps_versions(asker, other):
    """The rest of a sweep is done where the table of versions is not there."""
    for name, _ in other.execute(TRIGGERS).fetchall():
        other.execute(f"DROP TRIGGER {name}")
    other.execute("DROP TABLE channels_lite_groupversion")
    sweep = upkeep.Sweep((), None)
    while not sweep.is_done:
        asker.run(lambda execute: sweep.step(execute, NOW + 200))
    assert asker.ask() == (set(), True)
