"""Without the key, nothing of histories is on the way of a message."""

from __future__ import annotations

from pathlib import Path

import channels_lite
from channels_lite.delivery.plain import AllMailboxes
from tests.conftest import files_of_calls, received

ROOT = Path(channels_lite.__file__).parent
OURS = (
    "history.py",
    "delivery/histories.py",
    "delivery/log.py",
    "delivery/remembered.py",
    "delivery/roll.py",
    "store/history.py",
    "store/trimming.py",
)


async def test_no_function_of_it_is_called(make_layer):
    """By messages to groups and channels, by looks, sweeps and upkeep."""
    layer, other = make_layer(), make_layer()
    channel, theirs = await layer.new_channel(), await other.new_channel()
    with files_of_calls() as called:
        for name in (channel, theirs):
            await layer.group_add("room", name)
        await layer.send(channel, {"type": "x"})
        await layer.group_send("room", {"type": "y"})
        for receiver, name in ((layer, channel), (layer, channel), (other, theirs)):
            await received(receiver, name)
        await layer.group_discard("room", channel)
        layer._engine.sweeper.tick()
        await layer.clean_expired()
    ours = {str(ROOT / each) for each in OURS}
    assert any(name.startswith(str(ROOT)) for name in called)
    assert not called & ours
    assert type(layer._engine.mailboxes) is AllMailboxes
