"""In-memory databases, which Django's test runner makes of SQLite ones."""

from __future__ import annotations

import asyncio

import freezegun
import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import connections, transaction

from tests.conftest import LAYERS, TIMEOUT, received, use_database


@pytest.fixture(params=["core", "aio", "notify"])
def layer(request, tmp_path, monkeypatch):
    """A layer on a database as the test runner makes it, with the development file nearby."""
    monkeypatch.chdir(tmp_path)
    use_database("channels", f"file:memorydb_{request.param}?mode=memory&cache=shared")
    call_command("migrate", database="channels", verbosity=0)
    layer = LAYERS[request.param](database="channels", polling_interval=0.01)
    yield layer
    asyncio.run(layer.close())
    connections["channels"].close()
    assert list(tmp_path.iterdir()) == []


def test_works_within_a_transaction_of_the_test(layer):
    """As under TestCase: what is sent in the test's transaction is received in it."""

    async def test():
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_send("group", {"type": "x"})
        return await received(layer, channel)

    with transaction.atomic(using="channels"):
        assert async_to_sync(test)() == {"type": "x"}
        transaction.set_rollback(True, using="channels")


def test_works_without_a_transaction(layer):
    """As under TransactionTestCase: a receiver that waits is served."""

    async def test():
        channel = await layer.new_channel()
        receiving = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        await layer.send(channel, {"type": "x"})
        return await asyncio.wait_for(receiving, TIMEOUT)

    assert async_to_sync(test)() == {"type": "x"}


def test_frozen_time_changes_no_interval(layer):
    """A test that freezes time finds the layer as it was: it looks as often as before."""
    interval = layer.look_interval
    with freezegun.freeze_time("2041-01-01", real_asyncio=True):
        assert layer.look_interval == interval


def test_loop_may_end_as_a_look_begins(layer):
    """No task stays behind, which Python would report when it collects it."""

    async def test():
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "x"})
        await received(layer, channel)
        layer._engine.reader.look()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(test())
    assert asyncio.all_tasks(loop) == set()
    loop.close()


def flush(layer):
    """Flushes as between two TransactionTestCases with ``reset_sequences``."""
    read_rows(layer)
    call_command("flush", database="channels", interactive=False, verbosity=0)


def roll_back(layer):
    """Rolls back as after a TestCase."""
    with transaction.atomic(using="channels"):
        read_rows(layer)
        transaction.set_rollback(True, using="channels")


def read_rows(layer):
    """Sends and receives three rows on another channel."""

    async def test():
        channel = await layer.new_channel()
        for number in range(3):
            await layer.send(channel, {"number": number})
            await received(layer, channel)

    with transaction.atomic(using="channels"):
        async_to_sync(test)()


@pytest.mark.parametrize("begin_again", [flush, roll_back])
def test_order_holds_when_ids_begin_again(layer, begin_again):
    """Direct messages do not overtake rows whose ids other rows had before."""
    begin_again(layer)
    channel = async_to_sync(layer.new_channel)()
    with transaction.atomic(using="channels"):
        async_to_sync(layer.send)(channel, {"number": 0})
    async_to_sync(layer.send)(channel, {"number": 1})

    async def test():
        return [(await received(layer, channel))["number"] for _ in range(2)]

    assert async_to_sync(test)() == [0, 1]
