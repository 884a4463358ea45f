"""What users write: it has these very types, for mypy and for pyright, and no others pass."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal, TypedDict

import pytest
from asgiref.sync import async_to_sync
from channels.testing import ChannelsLiveServerTestCase
from django.test import TestCase
from typing_extensions import assert_type

from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.layers.notify import NotifyChannelLayer
from channels_lite.models import Event
from channels_lite.testing import ChannelLayerMixin, LiveServerMixin, Sent, fresh_layers


class OrderPaid(TypedDict):
    """A message of the project's own."""

    type: Literal["order.paid"]
    number: int


def any_of(name: str) -> BaseSQLiteChannelLayer:
    """Each layer is one."""
    if name == "core":
        return SQLiteChannelLayer(database="channels")
    return NotifyChannelLayer() if name == "notify" else AIOSQLiteChannelLayer(capacity=10)


async def talk(layer: NotifyChannelLayer) -> None:
    """Plain dicts and TypedDicts are messages; a list of pairs and bytes are not."""
    channel = assert_type(await layer.new_channel(), str)
    await layer.group_add("orders", channel)
    await layer.send(channel, {"type": "order.paid", "number": 7})
    await layer.send(channel, OrderPaid(type="order.paid", number=7))
    await layer.group_send("orders", OrderPaid(type="order.paid", number=7))
    assert_type(await layer.receive(channel), dict[str, Any])
    assert_type(await layer.group_channels("orders"), list[str])
    await layer.send(channel, [("type", "order.paid")])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await layer.group_send(b"orders", {})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def pay(layer: NotifyChannelLayer, number: int) -> None:
    """From sync code, with the types kept."""
    async_to_sync(layer.group_send)("orders", OrderPaid(type="order.paid", number=number))
    async_to_sync(layer.group_send)("orders")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def write(layer: NotifyChannelLayer) -> datetime:
    """A row of its own."""
    data = assert_type(layer.serialize(OrderPaid(type="order.paid", number=7)), bytes)
    event = Event.objects.create(channel_name="orders", data=data)
    assert_type(event, Event)
    assert_type(event.channel_name, str)
    assert_type(layer.deserialize(data), dict[str, Any])
    return assert_type(event.expires_at, datetime)


class PayTests(ChannelLayerMixin, TestCase):
    """The testing helpers."""

    def test_paid(self) -> None:
        """A message comes back."""
        assert_type(self.channel_layer, BaseSQLiteChannelLayer)
        assert_type(self.assert_sent("orders", type="order.paid"), dict[str, Any])
        self.assert_nothing_sent()


class LiveTests(LiveServerMixin, ChannelsLiveServerTestCase):
    """The two go together."""

    def test_url(self) -> None:
        """Channels' own attributes are there."""
        assert_type(self.live_server_url, str)


@pytest.fixture
def heard() -> Iterator[Sent]:
    """A fixture of the project's own."""
    with fresh_layers() as sent:
        yield assert_type(sent, Sent)
