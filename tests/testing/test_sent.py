"""What was sent, as a test asks for it."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.test import SimpleTestCase, override_settings

from channels_lite.testing import ChannelLayerMixin, fresh_layers
from tests.settings import CHANNEL_LAYERS

ID = uuid.UUID(int=7)
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize("serializer_format", ["msgpack", "msgpack_types", "json"])
@pytest.mark.parametrize("value", [("a", "b"), [("a",)], ID, NOON, b"a", mock.ANY], ids=repr)
def test_field_as_it_was_sent(serializer_format: str, value: Any):
    """A field is found by the value that was sent, as well as by the one that arrives."""
    sending = value if value is not mock.ANY else 7
    entry = CHANNEL_LAYERS["default"]
    entry = {**entry, "CONFIG": {**entry["CONFIG"], "serializer_format": serializer_format}}
    with override_settings(CHANNEL_LAYERS={"default": entry}), fresh_layers() as sent:
        async_to_sync(get_channel_layer().send)("orders", {"type": "order.paid", "of": sending})
        message = sent.assert_sent("orders", of=value)
        assert sent.assert_sent("orders", of=message["of"]) is message
        with pytest.raises(AssertionError):
            sent.assert_sent("orders", of=("a", "c"))
        with pytest.raises(AssertionError):
            sent.assert_sent("orders", of=value, at=value)


def test_field_arrives_by_the_layer_that_sent_it():
    """Of two layers with different formats, each one's messages are compared in its own."""
    plain = CHANNEL_LAYERS["default"]
    typed = {**plain, "CONFIG": {**plain["CONFIG"], "serializer_format": "msgpack_types"}}
    layers = {"default": plain, "typed": typed}
    with override_settings(CHANNEL_LAYERS=layers), fresh_layers() as sent:
        async_to_sync(get_channel_layer("typed").send)("orders", {"id": str(ID)})
        with pytest.raises(AssertionError):
            sent.assert_sent("orders", id=ID)


def test_relay_is_left_alone():
    """A test needs no engine, and reaches nobody through one."""
    entry = CHANNEL_LAYERS["default"]
    config = {**entry["CONFIG"], "relay": "nats://localhost:1", "relay_options": {"token": "x"}}
    layers = {"default": {**entry, "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=layers), fresh_layers() as sent:
        async_to_sync(get_channel_layer().send)("orders", {"type": "order.paid"})
        sent.assert_sent("orders", type="order.paid")


@pytest.mark.parametrize("name", ["sent", "channel_layer"])
def test_set_up_without_super(name: str):
    """A setUp of one's own that does not call Django's is told to, by what then is not there."""

    class Forgetful(ChannelLayerMixin, SimpleTestCase):
        def setUp(self) -> None:
            pass

        def test(self) -> None:
            getattr(self, name)

    case = Forgetful("test")
    with pytest.raises(AttributeError, match=rf"{name}.*call super\(\)\.setUp\(\)"):
        case.debug()
    with pytest.raises(AttributeError, match=r"has no attribute 'other'$"):
        case.other  # noqa: B018 - it is asked for


def test_names_of_arguments_may_be_given():
    """As a layer that is not recorded takes them."""
    with fresh_layers() as sent:
        layer = get_channel_layer()
        async_to_sync(layer.send)(channel="orders", message={"type": "a"})
        async_to_sync(layer.group_send)(group="shop", message={"type": "b"})
        sent.assert_sent("orders", type="a")
        sent.assert_sent("shop", type="b")
