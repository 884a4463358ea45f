"""Tests of a project, for Django's own test runner; ``test_memory_cases.py`` starts it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connections
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from channels_lite.models import Event

TIMEOUT = 5
LAYERS = {
    "default": {
        "BACKEND": os.environ["TESTED_BACKEND"],
        "CONFIG": {
            "database": "channels",
            "polling_interval": 0.01,
            "group_history": {"chat": {"messages": 10, "seconds": 60}},
        },
    }
}


async def turn(number: int) -> dict[str, Any]:
    """A message to a member of a group, received."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    await layer.group_send("group", {"number": number})
    return await asyncio.wait_for(receiving, TIMEOUT)


async def past_and_live() -> list[int]:
    """What two members of a group with a history receive, the second one of the past, too."""
    layer = get_channel_layer()
    got = []
    after = None
    for number in range(2):
        channel = await layer.new_channel()
        joined = await layer.group_add("chat", channel, after=after)
        assert joined
        after = joined.position
        await layer.group_send("chat", {"number": number})
        for _ in range(number + 1):
            message = await asyncio.wait_for(layer.receive(channel), TIMEOUT)
            got.append(message["number"])
    return got


class Cases:
    """The same promises, whatever the base class."""

    databases = ("default", "channels")

    async def test_1_async(self) -> None:
        """An async test receives what it sends."""
        assert await turn(1) == {"number": 1}

    async def test_2_async_again(self) -> None:
        """So does the next test with the same layer, though the first one's rows are gone."""
        assert await turn(2) == {"number": 2}

    def test_3_sync(self) -> None:
        """A sync test receives what it sends by async_to_sync."""
        assert async_to_sync(turn)(3) == {"number": 3}

    async def test_3_history(self) -> None:
        """A group with a history has that of this test."""
        assert await past_and_live() == [0, 0, 1]

    def test_4_nothing_is_left_of_other_tests(self) -> None:
        """A message of one test is not there in another."""
        assert not Event.objects.exists()
        async_to_sync(get_channel_layer().send)("channel", {"type": "left behind"})

    def test_5_nothing_is_left_of_the_test_before(self) -> None:
        """Nor is one that nobody received."""
        assert not Event.objects.exists()

    async def test_6_flush(self) -> None:
        """A flush, too, belongs to the test's transaction."""
        layer = get_channel_layer()
        await layer.send("channel", {"number": 6})
        await layer.flush()
        assert not await Event.objects.aexists()
        assert await turn(6) == {"number": 6}


@override_settings(CHANNEL_LAYERS=LAYERS)
class WithinTransactions(Cases, TestCase):
    """Each test in a transaction that is rolled back."""


@override_settings(CHANNEL_LAYERS=LAYERS)
class WithoutTransactions(Cases, TransactionTestCase):
    """Each test followed by a flush of the tables."""


@override_settings(CHANNEL_LAYERS=LAYERS)
class WithIdsBegunAnew(Cases, TransactionTestCase):
    """Each test begins with id 1."""

    reset_sequences = True


class Set(SimpleTestCase):
    """What the runner has set up."""

    databases = ("default", "channels")

    def test_database_is_in_memory(self) -> None:
        """The tests above run in memory."""
        assert connections["channels"].is_in_memory_db()
