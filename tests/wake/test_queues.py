"""The FIFO that the processes which wait on a plain channel share."""

from __future__ import annotations

import asyncio
import os

import pytest
from django.db import connections, transaction

from channels_lite.models import Event
from channels_lite.wake import queues
from channels_lite.wake.queues import Queues, path_of
from tests.conftest import TIMEOUT, received, until


class Process:
    """One that waits on "jobs"."""

    def __init__(self, sidecar):
        self.is_wanted = True
        self.is_in_vain = False
        self.turns = 0
        self.queues = Queues(
            lambda: sidecar, lambda channel: self.is_wanted, self.claim, lambda: self.is_in_vain
        )

    def claim(self, channel):
        self.turns += 1

    def watches(self):
        return self.queues.watches("jobs", asyncio.get_running_loop())

    def listen(self):
        return self.queues.listen("jobs", asyncio.get_running_loop())


@pytest.fixture
async def processes(tmp_path):
    made = [Process(tmp_path) for _ in range(3)]
    for process in made:
        assert process.listen()  # rows may have come before
    yield made
    for process in made:
        process.queues.close()


def put_turn(tmp_path):
    fd = os.open(path_of(tmp_path, "jobs"), os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"\2")
    os.close(fd)


async def test_turn_is_for_one_process(processes, tmp_path):
    """Whichever runs first."""
    put_turn(tmp_path)
    await until(lambda: any(each.turns for each in processes))
    for _ in range(10):
        await asyncio.sleep(0)
    assert sum(each.turns for each in processes) == 1


async def test_turn_is_passed_on(processes, tmp_path):
    """A process in which no coroutine waits leaves it to another, until one waits again."""
    first, *others = processes
    for each in others:
        each.is_wanted = False
    put_turn(tmp_path)
    await until(lambda: first.turns)
    first.is_wanted = False
    put_turn(tmp_path)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(each.turns for each in others)
    others[0].is_wanted = True
    assert not others[0].watches()  # so it must ask for turns
    assert others[0].listen()  # it takes the turn
    assert others[0].watches()


@pytest.mark.parametrize(("pause", "turns"), [(600.0, 1), (0.0, 2)])
async def test_flood_is_read_slowly(processes, tmp_path, monkeypatch, pause, turns):
    """Of a program that writes bytes without a row: once in each pause."""
    monkeypatch.setattr(queues, "FLOOD_PAUSE", pause)
    first, *others = processes
    for each in others:
        each.queues.close()
    first.is_in_vain = True
    put_turn(tmp_path)
    await until(lambda: first.turns)
    put_turn(tmp_path)
    await until(lambda: first.turns == turns)
    for _ in range(10):
        await asyncio.sleep(0)
    assert first.turns == turns


async def test_turns_that_are_left_over_are_taken_at_once(processes, tmp_path):
    """After a burst there are thousands, which else would hold up the next job."""
    first, *others = processes
    for each in others:
        each.queues.close()
    for _ in range(3):
        put_turn(tmp_path)
    first.is_in_vain = True
    await until(lambda: first.turns)
    assert not first.listen()
    assert first.turns == 1


async def test_deleted_queue_is_made_again(processes, tmp_path):
    """And its processes must listen again."""
    process = processes[0]
    assert not process.queues.keep({"jobs"})
    path_of(tmp_path, "jobs").unlink()
    assert process.queues.keep({"jobs"})
    assert process.listen()
    put_turn(tmp_path)
    await until(lambda: process.turns)


async def test_queue_that_is_wanted_again_is_opened_again(processes, tmp_path):
    """A coroutine of another loop began to wait after the wanted channels were listed."""
    process = processes[0]
    assert process.queues.keep(set())
    await until(lambda: not process.watches())
    assert process.listen()
    process.is_wanted = False
    assert not process.queues.keep(set())


def test_queues_of_a_closed_loop_are_closed(tmp_path):
    """Also if they were dropped before, and no other is open."""
    process = Process(tmp_path)

    async def listen():
        process.listen()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(listen())
    [fd] = process.queues._open.values()
    process.is_wanted = False
    process.queues.keep(set())
    os.fstat(fd)  # its loop, which stands still, has yet to close it
    loop.close()
    process.queues.keep(set())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_other_file_is_refused(tmp_path):
    """It is not read or written."""
    path_of(tmp_path, "jobs").write_bytes(b"mine")
    with pytest.raises(OSError, match="is no FIFO"):
        Process(tmp_path).listen()
    assert path_of(tmp_path, "jobs").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["notify"], indirect=True)
class TestLayers:
    """Of several processes that wait."""

    async def test_job_wakes_one(self, make_layer):
        """The others read nothing."""
        workers = [make_layer() for _ in range(4)]
        waiting = {asyncio.ensure_future(each.receive("jobs")) for each in workers}
        await until(lambda: all(each._engine.mailboxes.is_served("jobs") for each in workers))
        await make_layer().send("jobs", {"type": "x"})
        done, waiting = await asyncio.wait(
            waiting, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        assert len(done) == 1
        assert sum(each.stats.wakes for each in workers) == 1
        for each in waiting:
            each.cancel()

    async def test_jobs_of_one_commit_wake_as_many(self, make_layer):
        """A commit leaves one turn, which is passed on."""
        workers = [make_layer() for _ in range(4)]
        waiting = [asyncio.ensure_future(each.receive("jobs")) for each in workers]
        await until(lambda: all(each._engine.mailboxes.is_served("jobs") for each in workers))

        def commit():
            with transaction.atomic("channels"):
                for _ in workers:
                    data = workers[0].serialize({"type": "x"})
                    Event.objects.using("channels").create(channel_name="jobs", data=data)
            connections["channels"].close()  # this thread's

        await asyncio.to_thread(commit)
        assert await asyncio.wait_for(asyncio.gather(*waiting), TIMEOUT) == 4 * [{"type": "x"}]

    async def test_worker_whose_loop_is_busy_takes_no_job(self, make_layer, database):
        """Another one takes it, although the busy one also waits."""
        sidecar = database.with_name(f"{database.name}-wake")
        busy, idle = make_layer(), make_layer()
        never = asyncio.ensure_future(busy.receive("jobs"))
        await until(lambda: busy._engine.mailboxes.is_served("jobs"))
        for fd in busy._engine.waiter._queues._open.values():
            asyncio.get_running_loop().remove_reader(fd)  # as if its loop did not turn
        assert path_of(sidecar, "jobs").is_fifo()
        for number in range(5):
            job = asyncio.ensure_future(received(idle, "jobs"))
            await asyncio.sleep(0)
            await make_layer().send("jobs", {"n": number})
            assert await job == {"n": number}
        assert not never.done()
        never.cancel()
