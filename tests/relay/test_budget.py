"""What waits for an engine that does not answer is bounded, and what is refused is counted."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import InDoubt, budget, deadline
from tests.conftest import TIMEOUT, received
from tests.processes.conftest import wait_until
from tests.relay.conftest import NODES
from tests.relay.test_surroundings import there_loop as there_loop  # noqa: PLC0414 - a fixture

SIZE = 10_000


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(budget, "MOST", 20 * SIZE)
    monkeypatch.setattr(deadline, "DEADLINE", TIMEOUT)


@pytest.mark.parametrize("way", ["group", "job"])
def test_commits_while_the_engine_is_frozen(make_node_sync, own_engine, there_loop, way, caplog):
    """Messages of commits wait up to the limit; others are missed, counted, and warned of once."""
    here, there = make_node_sync("here", own_engine.url), make_node_sync("there", own_engine.url)
    run = there_loop.run
    channel = run(there.new_channel())
    run(there.group_add("room", channel))
    async_to_sync(here.new_channel)()
    before = here.stats.relay_missed
    taken = here._engine.relay.budget
    own_engine.freeze()
    try:
        for number in range(60):
            with transaction.atomic(using=NODES["here"]):
                message = {"number": number, "data": bytes(SIZE)}
                send, name = (here.send, "jobs") if way == "job" else (here.group_send, "room")
                async_to_sync(send)(name, message)
            assert taken._taken <= 21 * (SIZE + 1000)
        missed = here.stats.relay_missed - before
        assert 30 <= missed <= 41
        warnings = [each for each in caplog.records if "other nodes missed" in each.message]
        assert len(warnings) == 1
        assert "wait for the relay's engine" in warnings[0].message
        if way == "group":  # otherwise a send waits until the jobs of commits are done
            with pytest.raises(StoreUnavailable, match="wait for the relay's engine") as raised:
                async_to_sync(here.send)(channel, {"type": "x"})
            assert not isinstance(raised.value, InDoubt)
    finally:
        own_engine.thaw()
    name = "jobs" if way == "job" else channel
    found = [run(received(there, name))["number"] for _ in range(60 - missed)]
    assert found == list(range(60 - missed))
    wait_until(lambda: taken._taken == 0)
