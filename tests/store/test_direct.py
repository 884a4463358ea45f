"""The store that runs SQL on the loop's own thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from channels_lite import failpoints, process
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.notify import NotifyChannelLayer
from channels_lite.store import checkpoint, gate
from channels_lite.store import direct as direct_module
from channels_lite.store.attempt import Attempt
from channels_lite.store.direct import DirectStore
from tests.conftest import TIMEOUT, until
from tests.store.conftest import Asked, fail_to_start, mark, marks


def test_work_is_given_up_with_its_loop(database):
    """Who waits for a lock on a loop that is closed hears of it: nothing is for ever under way."""
    store = DirectStore("channels", 1)
    outcomes = []

    async def insert():
        store.transact(lambda execute: execute("SELECT 1", ()), outcomes.append)

    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE").close()
            asyncio.run(insert())
            assert not outcomes
        asyncio.run(insert())
    finally:
        store.close()
    given_up, done = outcomes
    with pytest.raises(StoreUnavailable, match="event loop was closed"):
        given_up.result()
    assert done.result() == [(1,)]


def test_26_fork_waits_for_a_checkpoint(database, monkeypatch):
    """A child has SQLite's mutexes as they were: nobody is inside when it is made."""
    monkeypatch.setattr(checkpoint, "GROWTH", 0)
    monkeypatch.setattr(checkpoint, "EVERY", 1)
    monkeypatch.setattr(gate, "TIMEOUT", TIMEOUT)
    is_inside, may_end = threading.Event(), threading.Event()

    def checkpointing():
        is_inside.set()
        may_end.wait(TIMEOUT)

    monkeypatch.setitem(failpoints.actions, "holding_checkpoint", checkpointing)
    store = DirectStore("channels", 1)

    async def write():
        store.transact(lambda execute: None, lambda outcome: None)

    ending = threading.Timer(0.1, may_end.set)
    try:
        asyncio.run(write())
        assert is_inside.wait(TIMEOUT)
        ending.start()
        store.pause()
        is_over = may_end.is_set()
        store.resume()
        assert is_over
    finally:
        may_end.set()
        store.close()


def test_26_threads_that_fork_at_once(database):
    """Between the two hooks of one thread's fork no other thread begins one."""
    layer = NotifyChannelLayer(database="channels")
    asyncio.run(layer.send("jobs", {"type": "x"}))
    is_about_to, has_begun = threading.Event(), threading.Event()

    def fork():
        is_about_to.set()
        process._before_fork()
        has_begun.set()
        process._after_fork_in_parent()

    process._before_fork()
    thread = threading.Thread(target=fork)
    thread.start()
    assert is_about_to.wait(TIMEOUT)
    assert not has_begun.wait(0.05)
    process._after_fork_in_parent()
    thread.join(TIMEOUT)
    assert has_begun.is_set()
    asyncio.run(asyncio.wait_for(layer.send("jobs", {"type": "x"}), TIMEOUT))
    asyncio.run(layer.close())


async def occupied(direct):
    """Another thread, with a loop of its own, is in the midst of a work until the event is set."""
    is_inside, may_end = threading.Event(), threading.Event()

    def work(execute):
        is_inside.set()
        assert may_end.wait(TIMEOUT)
        mark("theirs")(execute)

    async def ask():
        await Asked(direct, work, "transact").value()

    thread = threading.Thread(target=asyncio.run, args=(ask(),))
    thread.start()
    assert is_inside.wait(TIMEOUT)
    return thread, may_end


@pytest.mark.parametrize("are_threads", [True, False])
async def test_busy_connection_is_not_waited_for(direct, monkeypatch, are_threads):
    """Works queue up while another thread uses it, and the loop goes on; first come, first served.

    Also where no thread can be started that would do them.
    """
    thread, may_end = await occupied(direct)
    if not are_threads:
        monkeypatch.setattr(threading.Thread, "start", fail_to_start)
    works = [Asked(direct, mark(str(number)), "transact") for number in range(3)]
    works += [Asked(direct, marks)]
    for _ in range(10):  # the loop goes round
        await asyncio.sleep(0.001)
    assert not any(asked.outcomes for asked in works)
    may_end.set()
    assert (await asyncio.gather(*(asked.value() for asked in works)))[-1] == ["theirs", *"012"]
    thread.join()


@pytest.mark.parametrize("are_threads", [True, False])
async def test_busy_connection_is_given_up_on(database, monkeypatch, are_threads):
    """After the time-out, as any lock."""
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", {"timeout": 0.1})
    store = DirectStore("channels", 1)
    thread, may_end = await occupied(store)
    with monkeypatch.context() as patch:
        if not are_threads:
            patch.setattr(threading.Thread, "start", fail_to_start)
        with pytest.raises(StoreUnavailable, match="stayed locked"):
            await Asked(store, marks).value()
    may_end.set()
    thread.join()
    store.close()


async def test_large_work_is_done_in_a_thread(direct, monkeypatch):
    """And what comes after it, until it is done; a small one, or without a thread, on the loop."""
    is_inside, may_end = threading.Event(), threading.Event()

    def large(execute):
        is_inside.set()
        assert may_end.wait(TIMEOUT)
        mark("large")(execute)

    asked = Asked(direct, large, "transact", size=direct_module.LARGE + 1)
    assert is_inside.wait(TIMEOUT)
    behind = Asked(direct, mark("behind"))
    assert not behind.outcomes
    may_end.set()
    await asked.value()
    await behind.value()
    assert asked.thread == behind.thread != threading.get_ident()
    assert await Asked(direct, marks).value() == ["large", "behind"]
    await until(lambda: not direct._worker.unfinished)
    small = Asked(direct, marks, size=direct_module.LARGE)
    assert small.thread == threading.get_ident()
    monkeypatch.setattr(threading.Thread, "start", fail_to_start)
    direct.close()
    without = Asked(direct, mark("without"), "transact", size=direct_module.LARGE + 1)
    await without.value()
    assert without.thread == threading.get_ident()


async def test_large_work_behind_a_small_one(direct, foreign):
    """It is no reason to hold the loop that a lock was waited for before."""
    foreign.execute("BEGIN IMMEDIATE")
    small = Asked(direct, mark("small"), "transact")
    large = Asked(direct, mark("large"), "transact", size=direct_module.LARGE + 1)
    foreign.execute("COMMIT")
    await asyncio.gather(small.value(), large.value())
    assert small.thread == threading.get_ident() != large.thread
    assert await Asked(direct, marks).value() == ["small", "large"]


async def test_large_work_is_not_overtaken(direct, foreign):
    """By what its loop writes later, though the loop could do that first."""
    foreign.execute("BEGIN IMMEDIATE")
    large = Asked(direct, mark("large"), "transact", size=direct_module.LARGE + 1)
    assert await Asked(direct, marks).value() == []
    foreign.execute("COMMIT")
    small = Asked(direct, mark("small"), "transact")
    await asyncio.gather(small.value(), large.value())
    assert await Asked(direct, marks).value() == ["large", "small"]


async def test_dropped_thread_ends_at_once(direct):
    """It does not wait for more to do."""
    await Asked(direct, marks, size=direct_module.LARGE + 1).value()
    thread = direct._worker._thread
    direct._worker._idle = None
    direct._worker.put(Attempt(marks, lambda outcome: None, write=False, deadline=0))
    direct.drop()
    await until(lambda: not thread.is_alive())


async def test_thread_ends_when_there_is_no_more_to_do(direct, monkeypatch):
    """It is started anew when it is needed."""
    monkeypatch.setattr(direct_module, "IDLE", 0.001)
    direct.close()  # the next one is by that
    for _ in range(2):
        await Asked(direct, marks, size=direct_module.LARGE + 1).value()
        await until(lambda: direct._worker._thread and not direct._worker._thread.is_alive())


async def test_fork_in_another_thread_holds_no_loop(direct):
    """What is submitted between its two hooks is done after it."""
    await asyncio.to_thread(direct.pause)
    asked = Asked(direct, mark("x"), "transact")
    for _ in range(10):  # the loop goes round
        await asyncio.sleep(0.001)
    assert not asked.outcomes
    direct.resume()
    await asked.value()


async def test_tidying_waits_for_nobody(direct, database, migrated):
    """A file that was replaced is opened anew as soon as nobody uses the old one."""
    thread, may_end = await occupied(direct)
    fresh = database.with_name("fresh")
    fresh.write_bytes(migrated)
    fresh.replace(database)
    direct.tidy()
    may_end.set()
    thread.join()
    await Asked(direct, mark("x"), "transact").value()
    assert direct._opened == 2


def test_tidying_tells_those_whose_loop_is_closed(direct, foreign):
    """Also where nothing else is submitted."""
    foreign.execute("BEGIN IMMEDIATE")

    async def ask():
        return [Asked(direct, mark("void"), "transact") for _ in range(2)]

    works = asyncio.run(ask())
    direct.tidy()
    for asked in works:
        with pytest.raises(StoreUnavailable, match="event loop was closed"):
            asked.value_without_loop()


async def test_no_commit_checkpoints(direct, monkeypatch):
    """Whatever init_command says: it would wait for the disk on the loop."""
    options = {"init_command": "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 100"}
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", options)
    asked = Asked(direct, lambda execute: execute("PRAGMA wal_autocheckpoint", ()))
    assert await asked.value() == [(0,)]


async def test_connection_that_cannot_be_set_up_is_not_kept(direct, monkeypatch):
    """The next work opens another one."""
    options = {"init_command": "SELECT no_such_column"}
    with monkeypatch.context() as patch:
        patch.setitem(connections.settings["channels"], "OPTIONS", options)
        with pytest.raises(ImproperlyConfigured, match="no such column"):
            await Asked(direct, marks, "transact").value()
    assert direct._connection is None
    assert await Asked(direct, marks, "transact").value() == []


def test_at_exit_a_lock_is_waited_for_briefly(direct, foreign, monkeypatch):
    """There is no loop whose timer could try again, and no thread can be started."""
    monkeypatch.setattr(direct_module, "is_ending", lambda: True)
    monkeypatch.setattr(direct_module, "EXIT_TIMEOUT", 0.05)
    outcomes = []
    for statement in ("BEGIN IMMEDIATE", "COMMIT"):
        foreign.execute(statement)
        direct.transact(mark("x"), outcomes.append)
    locked, done = outcomes
    with pytest.raises(StoreUnavailable, match="stayed locked"):
        locked.result()
    assert done.result() is None


@pytest.mark.parametrize("how", ["transact", "persist"])
def test_neither_loop_nor_thread(direct, foreign, monkeypatch, how):
    """It is waited for here, and not for long."""
    monkeypatch.setattr(direct_module, "EXIT_TIMEOUT", 0.05)
    monkeypatch.setattr(threading.Thread, "start", fail_to_start)
    foreign.execute("BEGIN IMMEDIATE")
    outcomes = []
    getattr(direct, how)(mark("x"), outcomes.append)
    with pytest.raises(StoreUnavailable, match="stayed locked"):
        outcomes[0].result()
