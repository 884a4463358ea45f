"""The statements of histories: each uses its index, and trims from the oldest on."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from channels_lite.history import Limit, Position
from channels_lite.store import history, trimming

BY_GROUP = "channels_lite_history_group"


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (history.LAST, BY_GROUP),
        (history.SIZES, BY_GROUP),
        (history.AFTER, BY_GROUP),
        (history.BEFORE, BY_GROUP),
        (history.IS_KNOWN, "INTEGER PRIMARY KEY"),
        (history.NEW_ROWS, "INTEGER PRIMARY KEY"),
        (history.NEW_MEMBERS, "INTEGER PRIMARY KEY"),
        (history.MEMBERS, "channels_lite_groupmembership_group_name"),
        (trimming.NEXT_GROUPS, BY_GROUP),
        (trimming.BY_NUMBER, BY_GROUP),
        (trimming.OLDEST, BY_GROUP),
        (trimming.DELETE, BY_GROUP),
    ],
)
def test_statement_uses_its_index(database, statement, index):
    """None reads a whole table, or sorts rows."""
    numbered = [int(each) for each in re.findall(r"\?(\d)", statement)]
    parameters = [None] * (max(numbered) if numbered else statement.count("?"))
    with closing(sqlite3.connect(database)) as connection:
        plan = [
            each[3] for each in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert any(index in step for step in plan), plan
    assert not [step for step in plan if re.match("SCAN channels_lite_(?!boot)", step)], plan


def append(execute, *ages, group="g"):
    """Rows that were made so many seconds before second 1000."""
    for age in ages:
        history.append(execute, group, 1000.0 - age, b"x")


def ids(execute):
    return [row for (row,) in execute("SELECT id FROM channels_lite_groupmessage ORDER BY id", ())]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(Limit(2, 999), [4, 5]), (Limit(9, 60), [3, 4, 5]), (Limit(9, 999), [1, 2, 3, 4, 5])],
)
def test_only_the_oldest_rows_go(execute, limit, kept):
    """An old row behind a newer one waits for it, so that positions tell what is gone."""
    append(execute, 90, 90, 10, 90, 0)
    trimming.trim(execute, b"g", limit, 1000.0)
    assert ids(execute) == kept


def test_last_row_to_go_is_still_a_position(execute):
    """Everything after it is there; after an earlier one it is not."""
    append(execute, 90, 80, 0)
    positions = [row.position for row in history.after(execute, "g", 0, 9).rows]
    trimming.trim(execute, b"g", Limit(1, 999), 1000.0)
    known = [history.is_known(execute, "g", position) for position in positions]
    assert known == [False, True, True]
    assert not history.is_known(execute, "other", positions[2])


def test_a_group_that_is_gone_for_long_is_forgotten(execute):
    """Its clients load their state anew; one with members, or for a shorter time, is kept."""
    for group in ("gone", "joined", "recent"):
        assert history.here(execute, group, 1000.0 if group == "recent" else 0.0).id == 0
    history.join(execute, "joined", "a.b!c", now=0.0, expires_at=9e9, position=None)
    sweep = trimming.Trimming(lambda _: None)
    while not sweep.is_done:
        sweep.step(execute, trimming.FORGET_AFTER + 500, trimming.writing)
    groups = execute("SELECT group_name FROM channels_lite_grouphistory ORDER BY 1", ())
    assert groups == [("joined",), ("recent",)]


def test_histories_of_other_settings_are_kept(execute):
    """A sweep trims the groups that its own CONFIG names, of as many as there are."""
    for number in range(120):
        append(execute, 90, 0, group=f"g{number:03}")
    sweep = trimming.Trimming(lambda group: None if group == "g007" else Limit(1, 999))
    deleted = 0
    while not sweep.is_done:
        deleted += sweep.step(execute, 1000.0, trimming.writing)
    assert deleted == 119
    assert len(ids(execute)) == 121


def test_groups_with_odd_names_are_trimmed(execute):
    """Other programs may write text in another encoding, or no text."""
    for name in (b"\xff", b"g"):
        for _ in range(3):
            execute(
                "INSERT INTO channels_lite_groupmessage (group_name, created_at, data)"
                " VALUES (CAST(? AS TEXT), 'yesterday', x'00')",
                (name,),
            )
    execute(
        "INSERT INTO channels_lite_groupmessage (group_name, created_at, data) VALUES (7.5, -1, 1)",
        (),
    )
    sweep = trimming.Trimming(lambda _: Limit(1, 9e9))
    while not sweep.is_done:
        sweep.step(execute, 1000.0, trimming.writing)
    assert len(ids(execute)) == 3
    asked = history.Asked(0.0, "t", 0, 0, 0, lambda _: history.Known(None, 0.0), lambda *_: 1, True)
    assert len(history.news(execute, asked).rows) == 3


def test_row_that_is_deleted_while_it_is_read_is_not_passed_over(execute):
    """The next look begins there, and is told how much is gone."""
    for size in (1, history.SMALL + 1, 1):
        history.append(execute, "g", 0.0, b"x" * size)

    def racing(statement, parameters):
        if statement == history.DATA:
            trimming.trim(execute, b"g", Limit(1, 9e9), 0.0)
        return execute(statement, parameters)

    asked = history.Asked(0.0, "t", 0, 0, 0, lambda _: history.Known(None, 0.0), lambda *_: 1, True)
    found = history.news(racing, asked)
    assert ([new.row.id for new in found.rows], found.row, found.is_all) == ([1], 1, False)
    found = history.news(execute, replace(asked, row=found.row))
    assert [(new.row.id, new.trimmed) for new in found.rows] == [(3, 2)]
    assert (found.row, found.is_all) == (3, True)


def test_position_is_of_a_row_and_its_moment(execute):
    """A file that was restored from a backup uses ids again; their stamps differ."""
    append(execute, 10)
    [row] = history.after(execute, "g", 0, 9).rows
    assert row.position == Position(1, 990_000_000)
    execute("DELETE FROM channels_lite_groupmessage", ())
    execute("UPDATE sqlite_sequence SET seq = 0", ())
    append(execute, 9)
    assert not history.is_known(execute, "g", row.position)
