"""The store that runs SQL on the loop's own thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing

import pytest

from channels_lite import failpoints, process
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.notify import NotifyChannelLayer
from channels_lite.store import checkpoint, gate
from channels_lite.store.direct import DirectStore
from tests.conftest import PATIENCE


def test_work_is_given_up_with_its_loop(database):
    """Who waits for a lock on a loop that is closed hears of it: nothing is for ever under way."""
    store = DirectStore("channels", 1)
    outcomes = []

    async def insert():
        store.submit(lambda execute: execute("SELECT 1", ()), outcomes.append, write=True)

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
    monkeypatch.setattr(gate, "PATIENCE", PATIENCE)
    is_inside, may_end = threading.Event(), threading.Event()

    def checkpointing():
        is_inside.set()
        may_end.wait(PATIENCE)

    monkeypatch.setitem(failpoints.actions, "holding_checkpoint", checkpointing)
    store = DirectStore("channels", 1)

    async def write():
        store.submit(lambda execute: None, lambda outcome: None, write=True)

    ending = threading.Timer(0.1, may_end.set)
    try:
        asyncio.run(write())
        assert is_inside.wait(PATIENCE)
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
    assert is_about_to.wait(PATIENCE)
    assert not has_begun.wait(0.05)
    process._after_fork_in_parent()
    thread.join(PATIENCE)
    assert has_begun.is_set()
    asyncio.run(asyncio.wait_for(layer.send("jobs", {"type": "x"}), PATIENCE))
    asyncio.run(layer.close())
