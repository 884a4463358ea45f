"""What one sender says to one channel comes in the order in which it was said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.conftest import LAYERS, TIMEOUT, Child, child_environment, configured

pytestmark = pytest.mark.usefixtures("write_ahead_log", "large_as_rows")

#: Too long to be handed over: such a message needs a row.
LONG = "x" * 100_000
ROUND = 6


def manage_flush(folder: Path) -> None:
    """Empties all tables, as another process."""
    subprocess.run(
        [sys.executable, "-m", "django", "flush", "--no-input", "-v0"],
        env=child_environment(folder),
        timeout=TIMEOUT,
        check=True,
    )


def heard_of_a_round(receiver: Child, sender: Child, channel: str) -> list[int]:
    """Long and short messages in turns, while the receiver stands still."""
    receiver.stop()
    for number in range(ROUND):
        message = {"number": number, "text": "" if number % 2 else LONG}
        sender.do("send", channel=channel, message=message)
    receiver.go_on()
    return [message["number"] for message in receiver.messages(ROUND)]


@pytest.mark.parametrize("layer", LAYERS)
def test_order_holds_after_manage_flush(start, folder, layer):
    """`manage.py flush` begins the ids anew; rows and frames go on in their order."""
    environment = configured(layer)
    receiver, sender = start(layer, **environment), start(layer, **environment)
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel, count=1000)
    before = [heard_of_a_round(receiver, sender, channel) for _ in range(5)]
    manage_flush(folder)
    after = [heard_of_a_round(receiver, sender, channel) for _ in range(5)]
    assert before + after == [list(range(ROUND))] * 10


@pytest.mark.parametrize("layer", LAYERS)
def test_sender_that_has_not_heard_of_a_flush_loses_nothing(start, folder, layer):
    """Its message comes while nobody waits, to a process that has not read the new clock."""
    receiver, sender, other = (start(layer, **configured(layer)) for _ in range(3))
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel, count=1)
    sender.do("send", channel=channel, message={"number": 0})
    assert receiver.messages(1) == [{"number": 0}]
    manage_flush(folder)
    other.do("send", channel="other", message={"number": 1})
    receiver.do("send", channel="jobs", message={"number": 2})
    sender.do("send", channel=channel, message={"number": 3})
    receiver.do("new_channel")  # its loop takes the message in
    receiver.do("receive", channel=channel, count=1)
    assert receiver.messages(1) == [{"number": 3}]


@pytest.mark.parametrize("layer", LAYERS)
def test_order_holds_across_on_commit(start, layer):
    """What an on_commit hook sends comes after what its transaction sent, however registered."""
    environment = configured(layer)
    receiver, view = start(layer, **environment), start(layer, **environment)
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel, count=1000)
    view.do("send", channel=channel, message={"number": 0})
    receiver.received()
    for _ in range(5):
        receiver.stop()
        view.do("send_around_commit", channel=channel)
        receiver.go_on()
        assert [message["number"] for message in receiver.messages(2)] == [1, 2]


@pytest.mark.parametrize("layer", LAYERS)
def test_send_that_timed_out_is_not_delivered_later(start, layer):
    """A send that is cancelled while it waits for a lock is void, and none comes behind a later."""
    environment = configured(layer)
    receiver, sender, writer = (start(layer, **environment) for _ in range(3))
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel, count=1000)
    sender.do("send", channel=channel, message={"number": 0})
    assert receiver.received()["received"] == {"number": 0}
    writer.do("execute", sql="BEGIN IMMEDIATE")
    long = {"number": 1, "text": LONG}
    assert sender.do("send_until", seconds=0.2, channel=channel, message=long) == "TimeoutError"
    sender.begin("send", channel=channel, message={"number": 2})
    writer.do("execute", sql="ROLLBACK")
    sender.finish()
    sender.do("send", channel=channel, message={"number": 3, "text": LONG})
    assert [message["number"] for message in receiver.messages(2)] == [2, 3]
