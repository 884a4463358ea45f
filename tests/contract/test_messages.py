"""What a message may be, and that it arrives as it was sent."""

from __future__ import annotations

import pytest
from channels.exceptions import MessageTooLarge
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from channels_lite.errors import InvalidMessage
from channels_lite.layers import base
from tests.conftest import received

EVERYTHING = {
    "type": "a.b",
    "bytes": b"\x00\xff",
    "text": "Grüße \U0001f600",
    "numbers": [0, -1, 2**63 - 1, -(2**63), 1.5, 1e300],
    "nested": {"list": [{"a": None}, True, False]},
}


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
async def test_every_type_arrives_as_it_was_sent(make_layer, serializer):
    """bytes, str, 64-bit int, float, list, dict, bool and None keep their type and value."""
    layer = make_layer(serializer_format=serializer)
    await layer.send("channel", EVERYTHING)
    message = await received(layer, "channel")
    assert message == EVERYTHING
    assert type(message["bytes"]) is bytes


async def test_django_strings_arrive_as_strings(layer):
    """SafeString and lazy strings travel as plain text."""
    await layer.send("channel", {"safe": SafeString("<b>"), "lazy": gettext_lazy("Monday")})
    assert await received(layer, "channel") == {"safe": "<b>", "lazy": "Monday"}


async def test_a_megabyte_arrives(layer):
    """A message of 1 MB is delivered whole."""
    await layer.send("channel", {"data": "x" * 2**20})
    assert (await received(layer, "channel"))["data"] == "x" * 2**20


async def test_too_large_a_message_is_refused(layer, monkeypatch):
    """Above the limit send and group_send raise MessageTooLarge, and store nothing."""
    monkeypatch.setattr(base, "MAX_MESSAGE_SIZE", 100)
    await layer.group_add("group", "channel")
    for send, target in ((layer.send, "channel"), (layer.group_send, "group")):
        with pytest.raises(MessageTooLarge):
            await send(target, {"data": "x" * 100})
    await layer.send("channel", {"type": "small"})
    assert await received(layer, "channel") == {"type": "small"}


@pytest.mark.parametrize(
    "message",
    ["text", None, [("type", "x")], {"__asgi_channel__": "x"}, {"o": object()}, {"n": 2**64}],
    ids=["str", "None", "list", "reserved key", "object", "65 bits"],
)
async def test_invalid_message_is_refused(layer, message):
    """What is no message raises TypeError, also an AssertionError, and stores nothing."""
    await layer.group_add("group", "channel")
    for send, target in ((layer.send, "channel"), (layer.group_send, "group")):
        with pytest.raises(InvalidMessage) as refused:
            await send(target, message)
        assert isinstance(refused.value, (TypeError, AssertionError))
    await layer.send("channel", {"type": "valid"})
    assert await received(layer, "channel") == {"type": "valid"}


async def test_receivers_share_nothing(layer):
    """The sender's dict is left as it was, and each member of a group gets an object of its own."""
    message = {"type": "x", "list": [1]}
    channels = [await layer.new_channel() for _ in range(2)]
    for channel in channels:
        await layer.group_add("group", channel)
    await layer.group_send("group", message)
    message["list"].append(2)
    first, second = [await received(layer, channel) for channel in channels]
    assert first == second == {"type": "x", "list": [1]}
    assert first is not second
    assert first["list"] is not second["list"]


@pytest.mark.parametrize("message", [{"type": "flat", "n": 1}, {"type": "nested", "n": [1]}])
async def test_members_of_one_process_share_nothing(layer, message):
    """However many they are, and whatever they do with the message."""
    channels = [await layer.new_channel() for _ in range(5)]
    for channel in channels:
        await layer.group_add("group", channel)
    await layer.group_send("group", message)
    for channel in channels:
        got = await received(layer, channel)
        assert got == message
        if isinstance(got["n"], list):
            got["n"].append(2)
        got["type"] = "changed"
