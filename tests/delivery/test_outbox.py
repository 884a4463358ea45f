"""What a loop sends goes out at once, or together in the next iteration."""

from __future__ import annotations

import pytest

from channels_lite.delivery import outbox
from tests.conftest import received


@pytest.fixture(params=["notify"])
def kind(request):
    """The layer whose store works on the loop."""
    return request.param


def is_sent_at_once(layer, number):
    """Whether ``send`` returns without a turn of the loop; otherwise it is cancelled."""
    sending = layer.send("jobs", {"n": number})
    try:
        sending.send(None)
    except StopIteration:
        return True
    sending.close()
    return False


async def test_first_row_of_an_iteration_is_committed_at_once(make_layer, monkeypatch):
    """One that follows a moment later lets other coroutines run."""
    monkeypatch.setattr(outbox, "TOGETHER", 600.0)  # the moment
    layer = make_layer()
    await layer.send("jobs", {"n": 0})  # the first use
    layer._engine.outgoing._outbox()._together_until = 0.0
    assert is_sent_at_once(layer, 1)
    assert not is_sent_at_once(layer, 2)
    assert [(await received(layer, "jobs"))["n"] for _ in range(2)] == [0, 1]
