"""Names of channels and groups."""

from __future__ import annotations

import random

import pytest

from channels_lite.errors import ForeignChannel
from tests.conftest import received

INVALID = ["", "a b", "ü", "a/b", "a!b!c", "new\n", "x" * 100, b"bytes", None, 3, "?", "!", "#x"]


@pytest.mark.parametrize("name", INVALID)
async def test_invalid_name_raises(layer, name):
    """Every method refuses an invalid name with TypeError."""
    for call in (
        layer.send(name, {}),
        layer.receive(name),
        layer.group_add(name, "channel"),
        layer.group_add("group", name),
        layer.group_discard(name, "channel"),
        layer.group_discard("group", name),
        layer.group_send(name, {}),
    ):
        with pytest.raises(TypeError, match=r"a valid unicode string .* (is a|is not valid|has)"):
            await call


async def test_group_takes_no_bang(layer):
    """A group's name has no "!"."""
    with pytest.raises(TypeError):
        await layer.group_send("a!b", {})


async def test_longest_name_works(layer):
    """99 characters, of every kind allowed, are a name."""
    name = ("aZ0-_." * 17)[:99]
    await layer.group_add(name, name)
    await layer.group_send(name, {"type": "x"})
    assert await received(layer, name) == {"type": "x"}


async def test_receive_name_ends_at_the_bang(layer):
    """require_valid_channel_name(receive=True) refuses what is behind the "!"."""
    assert layer.require_valid_channel_name("a!", receive=True)
    with pytest.raises(TypeError):
        layer.require_valid_channel_name("a!b", receive=True)


async def test_new_channels_are_unique(make_layer):
    """new_channel() repeats nothing, whatever random.seed() says, and takes a prefix."""
    names = set()
    for layer in (make_layer(), make_layer()):
        for _ in range(3):
            random.seed(1)
            names.add(await layer.new_channel())
            names.add(await layer.new_channel(prefix="http.response"))
    assert len(names) == 12
    assert all(name.count("!") == 1 for name in names)


async def test_foreign_channel_is_refused(make_layer):
    """Another layer's process-local channel cannot be received on."""
    here, there = make_layer(), make_layer()
    with pytest.raises(ForeignChannel) as refused:
        await here.receive(await there.new_channel())
    assert isinstance(refused.value, AssertionError)
