"""Processes are killed and stopped, at the places where it matters."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import threading
import time
from contextlib import suppress

import pytest

from tests.chaos.conftest import SCALE, wait_until

F_SETPIPE_SZ = 1031
KINDS = {"notify": {}, "polling": {"TEST_WITHOUT_EXTENSION": "1"}}
#: The fallback is soon where a row is about it.
SOON = json.dumps({"polling_interval": 0.3})
BIG = json.dumps({"polling_interval": 0.3, "capacity": 200_000})


@pytest.fixture(params=KINDS)
def environment(request):
    """Of the processes: with the extension, and without."""
    return KINDS[request.param] | {"TEST_CONFIG": SOON}


def token(child):
    return child.do("describe")["prefix"]


def listen(child, channel, count):
    child.do("receive", channel=channel, count=count)


def test_01_reader_killed_with_a_claim_in_hand(start, environment, ledger):
    """It takes one message along, which it had claimed; the others go to the other reader."""
    killed, sender = start(**environment), start(**environment)
    killed.do("stop_at", point="after_claim")
    listen(killed, "jobs", 10)
    ledger.send(sender, token(sender), "jobs", 1)
    killed.wait_until_stopped()
    survivor = start(**environment)
    listen(survivor, "jobs", 10)
    ledger.send(sender, token(sender), "jobs", 9)
    killed.kill()
    ledger.receive(survivor, count=9)
    ledger.check(lost=1)


@pytest.mark.parametrize("count", [1, 10])
def test_02_reader_killed_between_drain_and_look(start, ledger, count):
    """The turn it took is lost with it, and no message: the next one, or a timed look, finds it."""
    killed, survivor, sender = (start(TEST_CONFIG=SOON) for _ in range(3))
    killed.do("stop_at", point="after_drain")
    listen(killed, "jobs", count)
    listen(survivor, "jobs", count)
    survivor.stop()  # so the other one takes the turn
    ledger.send(sender, token(sender), "jobs", count)
    killed.wait_until_stopped()
    killed.kill()
    survivor.go_on()
    ledger.receive(survivor, count=count)
    ledger.check()


def test_02_reader_killed_with_frames_in_hand(start, ledger):
    """What was handed over to a process ends with it; what is sent later to others does not."""
    killed, survivor, sender = (start(TEST_CONFIG=SOON) for _ in range(3))
    channels = [child.do("new_channel") for child in (killed, survivor)]
    listen(killed, channels[0], 10)
    listen(survivor, channels[1], 10)
    killed.do("stop_at", point="after_frames")
    ledger.send(sender, token(sender), channels[0], 5)
    killed.wait_until_stopped()
    killed.kill()
    ledger.send(sender, token(sender), channels[1], 10)
    ledger.receive(survivor, count=10)
    ledger.check(lost=5)


def test_03_sender_killed_between_commit_and_wake(start, environment):
    """Its message is there, and the fallback look finds it."""
    receiver, killed = start(**environment), start(**environment)
    listen(receiver, "jobs", 1)
    killed.do("stop_at", point="after_commit")
    killed.begin("send", channel="jobs", message={"type": "job"})
    killed.wait_until_stopped()
    killed.kill()
    assert receiver.received()["received"] == {"type": "job"}


def test_03_hooked_commit_killed_before_the_wake(start):
    """The same for a row that Django's ORM has written, stopped inside SQLite's hook."""
    receiver, killed = start(TEST_CONFIG=SOON), start("core.SQLiteChannelLayer")
    listen(receiver, "jobs", 1)
    killed.do("stop_at", point="before_wake")
    killed.begin("create_event", channel="jobs", message={"type": "job"})
    killed.wait_until_stopped()
    killed.kill()
    assert receiver.received()["received"] == {"type": "job"}


def test_04_sender_killed_inside_its_transaction(start, environment, ledger):
    """Nothing of it is delivered, and the lock is free at once."""
    receiver, killed, sender = (start(**environment) for _ in range(3))
    listen(receiver, "jobs", 10)
    killed.do("send", channel="elsewhere", message={})
    killed.do("stop_at", point="before_commit")
    mine = token(sender)
    killed.begin("send_many", channel="jobs", count=5, at_once=True)
    killed.wait_until_stopped()
    sender.begin("send_many", channel="jobs", count=10)
    killed.kill()
    ledger.sent[mine] = sender.finish()
    ledger.receive(receiver, count=10)
    ledger.check()


def test_05_killed_while_holding_the_checkpoint(start, ledger, empty_the_log):
    """The others go on, and the next checkpoint is another's; nobody has to step in."""
    killed, receiver, sender = (start(TEST_CONFIG=BIG) for _ in range(3))
    listen(receiver, "jobs", 400)
    killed.do("stop_at", point="holding_checkpoint")
    killed.begin("checkpoint")
    killed.wait_until_stopped()
    ledger.send(sender, token(sender), "jobs", 200)
    killed.kill()
    ledger.send(sender, token(sender), "jobs", 200)
    ledger.receive(receiver, count=400)
    ledger.check()
    empty_the_log(sender)


def test_06_a_thousand_deaths_leave_nothing(start, folder, query):
    """Names, rows and memberships of killed processes are gone; the directory is as it was."""
    parent = start(TEST_CONFIG=SOON)
    parent.begin("die_in_forks", count=int(1000 * SCALE))
    parent.finish(600)
    successor = start(TEST_CONFIG=SOON)
    listen(successor, "jobs", 1)
    mine = token(successor)
    sidecar = folder / "default.sqlite3-wake"
    left = {mine, f"{mine}.frames", "@jobs", ".@jobs", ".upkeep", ".clock"}
    wait_until(lambda: {path.name for path in sidecar.iterdir()} == left)
    assert query("SELECT count(*) FROM channels_lite_groupmembership") == [(0,)]
    assert query("SELECT count(*) FROM channels_lite_event") == [(0,)]


def test_07_stopped_receiver_blocks_nobody(start, ledger):
    """A process-local channel of a stopped process fills up; later all comes, in order."""
    long = json.dumps({"expiry": 3600, "capacity": 100})
    receiver, sender = start(TEST_CONFIG=long), start(TEST_CONFIG=long)
    channel = receiver.do("new_channel")
    listen(receiver, channel, 1)
    ledger.send(sender, token(sender), channel, 1)
    ledger.receive(receiver, count=1)
    listen(receiver, channel, 10_000)
    receiver.signal(signal.SIGSTOP)
    receiver.wait_until_stopped()
    until = time.monotonic() + 60 * SCALE
    taken = ledger.send(sender, token(sender), channel, 1000)
    while time.monotonic() < until:
        taken += ledger.send(sender, token(sender), channel, 10)
    # The one that was received before may still count as on its way.
    assert 99 <= taken <= 110
    receiver.signal(signal.SIGCONT)
    ledger.receive(receiver, count=taken)
    taken = ledger.send(sender, token(sender), channel, 50)
    ledger.receive(receiver, count=taken)
    ledger.check()


def test_08_stopped_inside_its_transaction(start):
    """Others wait as long as their time-out says, hear why, and go on when it goes on."""
    stopped, sender = start(), start(TEST_OPTIONS='{"timeout": 1}')
    stopped.do("send", channel="elsewhere", message={})
    stopped.do("stop_at", point="before_commit")
    stopped.begin("send_many", channel="jobs", count=2, at_once=True)
    stopped.wait_until_stopped()
    began = time.monotonic()
    sender.begin("send", channel="jobs", message={})
    with pytest.raises(AssertionError, match=r"StoreUnavailable: .* stayed locked"):
        sender.finish()
    assert time.monotonic() - began >= 1
    stopped.signal(signal.SIGCONT)
    assert stopped.finish() == [0, 1]
    sender.do("send", channel="jobs", message={})


def test_09_full_fifo_is_a_wake_up(start, folder, ledger):
    """A reader whose FIFO takes no more bytes has been woken: sends succeed, all comes."""
    receiver, sender = start(TEST_CONFIG=BIG), start(TEST_CONFIG=BIG)
    count = int(100_000 * SCALE)
    listen(receiver, "jobs", count)
    receiver.signal(signal.SIGSTOP)
    receiver.wait_until_stopped()
    fifo = folder / "default.sqlite3-wake" / "@jobs" / names_of(folder, "@jobs")[0]
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    with pytest.raises(BlockingIOError):
        os.write(writer, b"x")
    assert ledger.send(sender, token(sender), "jobs", count) == count
    receiver.signal(signal.SIGCONT)
    ledger.receive(receiver, count=count)
    ledger.check()
    os.close(writer)


def names_of(folder, directory):
    return [path.name for path in (folder / "default.sqlite3-wake" / directory).iterdir()]


def test_13_thief_of_wake_ups(start, folder, ledger):
    """Who reads another's FIFO can delay messages up to the fallback look, and no more."""
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    listen(receiver, "jobs", 20)
    fifo = folder / "default.sqlite3-wake" / "@jobs" / names_of(folder, "@jobs")[0]
    thief = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    stop_read, stop_write = os.pipe()

    def steal():
        while stop_read not in select.select([thief, stop_read], [], [])[0]:
            with suppress(BlockingIOError):  # the receiver was quicker
                os.read(thief, 1)

    stealing = threading.Thread(target=steal, daemon=True)
    stealing.start()
    ledger.send(sender, token(sender), "jobs", 20)
    ledger.receive(receiver, count=20)
    ledger.check()
    os.write(stop_write, b"x")
    stealing.join()
    for fd in (thief, stop_read, stop_write):
        os.close(fd)


def test_14_flood_of_wake_ups(start, folder, ledger):
    """Bytes that mean nothing are soon looked after a hundred times a second, not at each."""
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    listen(receiver, "jobs", 10)
    receiver.do("count_looks")
    fifo = folder / "default.sqlite3-wake" / "@jobs" / names_of(folder, "@jobs")[0]
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    before = receiver.do("usage")["looks"]
    until, written = time.monotonic() + 2, 0
    while time.monotonic() < until:
        os.write(writer, b"x")
        written += 1
        time.sleep(0.0001)
    looks = receiver.do("usage")["looks"] - before
    # 200 are believed; then one each 10 ms.
    assert looks < 200 + 2 * 100 + 100 < written
    ledger.send(sender, token(sender), "jobs", 10)
    ledger.receive(receiver, count=10)
    ledger.check()
    os.close(writer)


def test_40_writers_share_the_lock(start):
    """Of eight processes that write as fast as they can none starves."""
    writers = [start(TEST_CONFIG=BIG) for _ in range(8)]
    for number, writer in enumerate(writers):
        writer.begin("send_for", channel=f"jobs{number}", seconds=max(1.0, 10 * SCALE))
    counts = sorted(writer.finish(90) for writer in writers)
    assert counts[0] * 20 > counts[-1], counts


def test_43_row_of_an_uncooperative_writer(start, environment, query, folder):
    """What the sqlite3 shell inserts is found by the fallback look."""
    receiver = start(**environment)
    listen(receiver, "jobs", 1)
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "default.sqlite3")) as connection, connection:
        connection.execute(
            "INSERT INTO channels_lite_event"
            " (created_at, expires_at, channel_name, recipients, data)"
            " VALUES (0, ?, 'jobs', '', ?)",
            (time.time() + 60, b'{"type": "foreign"}'),
        )
    assert receiver.received()["received"] == {"type": "foreign"}
