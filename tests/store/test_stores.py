"""What all stores promise."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import weakref
from contextlib import closing
from pathlib import Path

import django
import pytest
from django.db import connections

from channels_lite.errors import StoreUnavailable
from channels_lite.store import gate, writing
from tests.conftest import TIMEOUT, until
from tests.store.conftest import Asked, fail_to_start, mark, marks


async def test_order_among_writes(store, foreign):
    """While a write waits for another process others wait behind it, and reads go on."""
    foreign.execute("BEGIN IMMEDIATE")
    first, second = (Asked(store, mark(name), "transact") for name in ("first", "second"))
    assert await Asked(store, marks).value() == []
    assert not first.outcomes
    foreign.execute("COMMIT")
    third = Asked(store, mark("third"), "transact")
    for asked in (first, second, third):
        await asked.value()
    written = await Asked(store, marks).value()
    if type(store).__name__ == "AioStore":  # whose connections write side by side
        written.sort()
    assert written == ["first", "second", "third"]


async def test_lock_is_given_up_on_after_the_timeout(make_store, foreign, monkeypatch):
    """Those behind it, too; then the store goes on."""
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", {"timeout": 0.1})
    store = make_store()
    foreign.execute("BEGIN IMMEDIATE")
    works = [Asked(store, mark("void"), "transact") for _ in range(2)]
    for asked in works:
        with pytest.raises(StoreUnavailable, match="stayed locked"):
            await asked.value()
    foreign.execute("COMMIT")
    await Asked(store, mark("real"), "transact").value()
    assert await Asked(store, marks).value() == ["real"]


async def test_fork_need_not_wait_for_who_waits(store, foreign, monkeypatch):
    """Nobody is inside SQLite while it is another process that has the lock."""
    monkeypatch.setattr(gate, "TIMEOUT", TIMEOUT)
    foreign.execute("BEGIN IMMEDIATE")
    tries = []

    def work(execute):
        tries.append(1)
        mark("x")(execute)

    asked = Asked(store, work)
    await until(lambda: len(tries) > 1)
    await asyncio.to_thread(store.pause)
    is_inside = store._gate._inside
    store.resume()
    assert not is_inside
    foreign.execute("COMMIT")
    await asked.value()


@pytest.mark.parametrize("kind", ["pragma first", "pragma last", "none"])
async def test_nobody_but_us_waits(make_store, monkeypatch, kind):
    """SQLite's own wait is off, whatever init_command says."""
    store = make_store()
    if kind != "none":
        if type(store).__name__ == "DjangoStore" and django.VERSION < (5, 1):
            pytest.skip("Django takes init_command from 5.1 on")
        commands = ["PRAGMA busy_timeout = 5000", "PRAGMA journal_mode = WAL"]
        command = "; ".join(commands if kind == "pragma first" else commands[::-1])
        monkeypatch.setitem(connections.settings["channels"], "OPTIONS", {"init_command": command})
    asked = Asked(store, lambda execute: execute("PRAGMA busy_timeout", ()))
    assert [tuple(row) for row in await asked.value()] == [(0,)]


@pytest.mark.parametrize("how", ["transact", "persist"])
async def test_no_thread_to_be_had(store, foreign, monkeypatch, how):
    """Done all the same, or its outcome says so; and what is asked for later is done."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail_to_start)
        foreign.execute("BEGIN IMMEDIATE")
        asked = Asked(store, mark("first"), how)
        foreign.execute("COMMIT")
        outcome = await asked.outcome()
    await Asked(store, mark("second"), how).value()
    written = await Asked(store, marks).value()
    if outcome.error is None:
        assert written == ["first", "second"]
    else:
        assert "start new thread" in str(outcome.error)
        assert written == ["second"]


def test_persisted_whatever_becomes_of_the_loop(store, foreign):
    """It is tried until the lock is free, though the loop that asked was closed at once."""
    foreign.execute("BEGIN IMMEDIATE")

    async def ask():
        return Asked(store, mark("kept"), "persist")

    asked = asyncio.run(ask())
    assert not asked.outcomes
    foreign.execute("COMMIT")
    asked.value_without_loop()
    assert marks(lambda sql, parameters: foreign.execute(sql, parameters).fetchall()) == ["kept"]


async def test_nothing_is_kept_of_a_work(store):
    """A thread that waits for the next one does not keep a layer alive by the last one."""

    class Layer:
        def work(self, execute):
            return execute("SELECT 1", ())

    layer = Layer()
    is_gone = weakref.finalize(layer, lambda: None)
    for how in ("submit", "transact", "persist"):
        await Asked(store, layer.work, how).value()
    del layer
    gc.collect()
    await until(lambda: not is_gone.alive)


def held(folder: Path) -> tuple[list[str], int]:
    """Which files of the folder this process has open, and how many threads it has."""
    files = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            files.append(str(fd.readlink()))
        except FileNotFoundError:  # the one that has listed them
            continue
    here = [file for file in files if file.startswith(str(folder))]
    return here, len(list(Path("/proc/self/task").iterdir()))


async def test_dropped_store_gives_everything_back(make_store, database):
    """Connections, descriptors and threads, after what is queued; it works if it is used again."""
    before = held(database.parent)
    store = make_store()
    for name in ("first", "second"):
        with closing(sqlite3.connect(database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            asked = Asked(store, mark(name), "transact")
            store.drop()
            foreign.execute("COMMIT")
            await asked.value()
        await until(lambda: held(database.parent) == before)


@pytest.mark.parametrize("how", ["submit", "transact"])
async def test_dropped_from_within(make_store, database, how):
    """By the garbage collector, on the thread that is inside the store just now."""
    before = held(database.parent)
    store = make_store()

    def work(execute):
        value = execute("SELECT 1", ())
        store.drop()
        return value

    assert [tuple(row) for row in await Asked(store, work, how).value()] == [(1,)]
    await until(lambda: held(database.parent) == before)


async def test_dropped_in_the_midst_of_submitting(make_store, database, monkeypatch):
    """By the garbage collector, while a thread of the store is about to be started."""
    before = held(database.parent)
    store = make_store()
    start = threading.Thread.start

    def drop_and_start(thread):
        store.drop()
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", drop_and_start)
        asked = Asked(store, mark("first"), "transact")
        await asked.value()
    store.drop()
    await until(lambda: held(database.parent) == before)


async def test_closing_waits_for_what_is_queued(store, foreign):
    """And gives back everything; the next work begins anew."""
    foreign.execute("BEGIN IMMEDIATE")
    asked = Asked(store, mark("first"), "persist")
    is_closing = asyncio.create_task(asyncio.to_thread(store.close))
    await Asked(store, marks).value()
    foreign.execute("COMMIT")
    await is_closing
    assert asked.outcomes
    assert await Asked(store, marks).value() == ["first"]


async def test_replaced_file_is_opened_anew(store, database, migrated):
    """By what is submitted after that was noticed."""
    assert await Asked(store, marks).value() == []
    fresh = database.with_name("fresh")
    fresh.write_bytes(migrated)
    with closing(sqlite3.connect(fresh)) as connection, connection:
        mark("fresh")(connection.execute)
    fresh.replace(database)
    store.tidy()
    assert await Asked(store, marks).value() == ["fresh"]


async def test_done_that_fails_is_not_the_end(store, caplog):
    """What is asked for later is done."""

    def done(outcome):
        raise RuntimeError("a bug")

    def submit():
        store.transact(mark("first"), done)

    if type(store).__name__ == "DirectStore":
        with pytest.raises(RuntimeError, match="a bug"):
            submit()
    else:
        submit()
    await Asked(store, mark("second"), "transact").value()
    assert "second" in await Asked(store, marks).value()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT", "SELECT 1"])
def test_interrupted_transaction_is_not_left_open(database, statement):
    """Ctrl-C may come right after any statement, also the one that begins it."""
    connection = sqlite3.connect(database, isolation_level=None)

    def execute(sql, parameters):
        connection.execute(sql, parameters).fetchall()
        if sql == statement:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writing(execute):
        execute("SELECT 1", ())
    assert not connection.in_transaction
    connection.close()
