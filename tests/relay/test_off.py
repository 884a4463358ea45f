"""Without a relay nothing of it is on the way of a message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import channels_lite
from channels_lite.delivery.claims import Claims
from channels_lite.delivery.sending import Sending
from channels_lite.layers.engine import Engine
from tests.conftest import files_of_calls, received
from tests.processes.conftest import child_environment

ROOT = Path(channels_lite.__file__).parent
#: What belongs to a relay.
OURS = ("relay/", "layers/relayed.py", *(f"delivery/{each}.py" for each in (
    "departures", "imports", "incoming", "jobs", "neighbours", "relayed", "roster"
)))  # fmt: skip


@pytest.fixture(params=["core", "aio", "notify"])
def kind(request):
    """Which layer."""
    return request.param


async def test_no_function_of_it_is_called(make_layer):
    """By a direct message, one to a group, a job, and what goes with groups."""
    layer, other = make_layer(), make_layer()
    channel, theirs = await layer.new_channel(), await other.new_channel()
    with files_of_calls() as called:
        for name in (channel, theirs):
            await layer.group_add("room", name)
        await layer.send(channel, {"type": "x"})
        await layer.send("jobs", {"type": "x"})
        await layer.group_send("room", {"type": "y"})
        for receiver, name in (
            (layer, channel),
            (layer, channel),
            (layer, "jobs"),
            (other, theirs),
        ):
            await received(receiver, name)
        await layer.group_discard("room", channel)
    ours = {str(ROOT / each) for each in OURS}
    assert any(name.startswith(str(ROOT)) for name in called)
    assert not [name for name in called if name.startswith(tuple(ours))]


async def test_parts_are_those_of_one_machine(make_layer):
    """No class stands between that would ask at each message."""
    engine = make_layer()._engine
    assert type(engine) is Engine
    assert type(engine.sending) is Sending
    assert type(engine.claims) is Claims


def test_clients_of_engines_are_not_imported(tmp_path):
    """Neither nats-py nor redis-py, by a layer that needs none."""
    script = """
import sys, django
django.setup()
from channels.layers import get_channel_layer
get_channel_layer()
print(sorted({"nats", "redis"} & set(sys.modules)))
"""
    said = subprocess.run(
        [sys.executable, "-c", script],
        env=child_environment(tmp_path),
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout == "[]\n"
