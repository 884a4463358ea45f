"""Jobs that were claimed for nobody, and messages that need no claim."""

from __future__ import annotations

import json

import django
import pytest

from tests.processes.conftest import LAYERS, Child, configured, wait_until

pytestmark = pytest.mark.usefixtures("write_ahead_log")


def job_of(first: Child, other: Child) -> object:
    """What ``first`` has got after all, or else the next worker gets."""
    got = first.finish()
    if got is None:
        other.do("receive", channel="jobs")
        got = other.received()["received"]
    return got


@pytest.mark.parametrize("ends_loop", [True, False], ids=["loop ends", "loop goes on"])
@pytest.mark.parametrize("layer", LAYERS)
def test_job_of_a_cancelled_receiver_is_for_the_next_worker(start, layer, ends_loop):
    """It is cancelled in the moment of its claim; its process lives on, and receives no more."""
    environment = configured(layer)
    cancelled, other, sender = (start(layer, **environment) for _ in range(3))
    for number in range(10):
        cancelled.begin("receive_and_cancel", channel="jobs", ends_loop=ends_loop)
        assert cancelled.finish() == "waits"
        sender.do("send", channel="jobs", message={"number": number})
        assert job_of(cancelled, other) == {"number": number}


@pytest.mark.parametrize("layer", LAYERS)
def test_job_of_a_receiver_that_timed_out_is_for_the_next_worker(start, layer):
    """A sync worker polls; the job and the end of its timeout come while its loop is busy."""
    environment = configured(layer)
    polling, other, sender = (start(layer, **environment) for _ in range(3))
    for number in range(3):
        polling.begin("poll_on_busy_loop", channel="jobs", seconds=0.2)
        assert polling.finish() == "held"
        sender.do("send", channel="jobs", message={"number": number})
        polling.begin("go on")
        assert job_of(polling, other) == {"number": number}


@pytest.mark.parametrize("layer", LAYERS)
def test_message_that_needs_no_claim_waits_for_none(start, layer):
    """A job cannot be claimed while a foreign program writes; a channel's own message comes."""
    environment = configured(layer)
    receiver, writer = start(layer, **environment), start(layer, **environment)
    channel = receiver.do("new_channel")
    for each in (channel, "jobs"):
        receiver.do("receive", channel=each, count=2)
        writer.do("send", channel=each, message={"number": 0})
        receiver.received()
    receiver.stop()
    writer.do("begin")
    for each in ("jobs", channel):
        writer.do("sync_send", channel=each, message={"number": 1})
    writer.do("end")
    writer.do("execute", sql="BEGIN IMMEDIATE")
    receiver.go_on()
    first = receiver.received()
    writer.do("execute", sql="ROLLBACK")
    assert (first["channel"], first["received"]) == (channel, {"number": 1})
    second = receiver.received()
    assert (second["channel"], second["received"]) == ("jobs", {"number": 1})


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django takes init_command from 5.1 on")
def test_jobs_of_workers_that_lock_each_other_out_arrive_once(start):
    """Without a write-ahead log, one that commits also keeps the others from reading."""
    options = json.dumps({"init_command": "PRAGMA journal_mode = DELETE"})
    environment = configured("core.SQLiteChannelLayer", capacity=1000) | {"TEST_OPTIONS": options}
    sender, *workers = (start("core.SQLiteChannelLayer", **environment) for _ in range(4))
    for each in workers:
        each.do("receive", channel="jobs", count=1000)
    taken = sender.do("send_many", channel="jobs", count=200)
    numbers = []

    def have_come() -> bool:
        for each in workers:
            while each.has_received():
                numbers.append(each.received()["received"]["number"])
        return len(numbers) >= len(taken)

    wait_until(have_come)
    assert sorted(numbers) == taken
