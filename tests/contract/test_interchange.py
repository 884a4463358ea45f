"""The three layers on one file."""

from __future__ import annotations

import asyncio

import pytest

from channels_lite.models import Event
from tests.conftest import LAYERS, received


@pytest.mark.parametrize("sender", LAYERS)
async def test_layers_understand_each_other(make_layer, sender):
    """With their defaults every layer receives what any other one sends."""
    receiver, sender = make_layer(), make_layer(sender)
    receiver_channel = await receiver.new_channel()
    await receiver.group_add("group", receiver_channel)
    await sender.send("channel", {"bytes": b"\x00"})
    await sender.group_send("group", {"type": "x"})
    # In time, whoever wakes whom: the first look of a receiver finds what is there.
    assert await received(receiver, "channel") == {"bytes": b"\x00"}
    assert await received(receiver, receiver_channel) == {"type": "x"}


async def test_formats_understand_each_other(make_layer):
    """A layer reads JSON and MessagePack, whichever it writes."""
    layers = [make_layer(serializer_format=name) for name in ("json", "msgpack")]
    for sender, receiver in (layers, layers[::-1]):
        await sender.send("channel", {"bytes": b"\xff"})
        assert await received(receiver, "channel") == {"bytes": b"\xff"}


def test_event_written_by_hand_is_received(make_layer_sync):
    """Event.objects.create() with a serialized message is a message, and needs no more."""
    layer = make_layer_sync()
    Event.objects.create(channel_name="channel", data=layer.serialize({"type": "x"}))
    assert asyncio.run(received(layer, "channel")) == {"type": "x"}
