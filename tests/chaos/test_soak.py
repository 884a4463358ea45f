"""Eight processes under mixed load, killed and stopped at random, for half an hour."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest

from tests.chaos.conftest import SCALE, wait_until

CONFIG = json.dumps({"polling_interval": 0.5})
SECONDS = 1800 * SCALE
READERS = 4
SENDERS = 4


class Load:
    """Readers of one plain channel and of a group, and those who send to both."""

    def __init__(self, start):
        self._start = start
        self.kills = self.stops = 0
        self.taken = 0
        self.sent = {}
        self.received = []
        self.readers = [self._reader() for _ in range(READERS)]
        self.senders = [start(TEST_CONFIG=CONFIG) for _ in range(SENDERS)]

    def _reader(self):
        reader = self._start(TEST_CONFIG=CONFIG)
        for _ in range(3):
            reader.do("receive", channel="jobs", count=1_000_000)
        channel = reader.do("new_channel")
        reader.do("group_add", group="room", channel=channel)
        reader.do("receive", channel=channel, count=1_000_000)
        return reader

    def send(self, count, stopped=None):
        """All senders at once; what was taken is entered."""
        for sender in self.senders:
            first = self.sent.setdefault(sender, [0, None])[0]
            sender.begin("send_many", channel="jobs", count=count, first=first, at_once=True)
        if stopped is not None:
            # It may hold the write lock: the others wait for it, though not for ever.
            stopped.signal(signal.SIGSTOP)
            time.sleep(0.5)
            stopped.signal(signal.SIGCONT)
        for sender in self.senders:
            taken = sender.finish(120)
            self.sent[sender][0] += count
            self.taken += len(taken)
            sender.do("group_send", group="room", message={"type": "noise"})

    def collect(self, reader):
        while reader.has_received():
            message = reader.received()["received"]
            if "sender" in message:
                self.received.append((message["sender"], message["number"]))

    def kill(self, dice):
        victim = self.readers.pop(dice.randrange(READERS))
        victim.kill()
        self.collect(victim)
        self.readers.append(self._reader())
        self.kills += 1

    def stop(self, dice):
        self.send(5, stopped=dice.choice(self.readers))
        self.stops += 1


@pytest.mark.chaos
def test_soak(start, folder, query, capsys):
    """Nothing comes twice; only what killed readers had claimed is lost; nothing grows."""
    dice = random.Random(8)
    load = Load(start)
    before = [sender.do("usage") for sender in load.senders]
    until = time.monotonic() + SECONDS
    largest_log = 0
    while time.monotonic() < until:
        load.send(dice.randrange(1, 20))
        dice.choice([load.kill, load.stop, lambda dice: None])(dice)
        for reader in load.readers:
            load.collect(reader)
        log = folder / "default.sqlite3-wal"
        largest_log = max(largest_log, log.stat().st_size)
    wait_until(lambda: query("SELECT count(*) FROM channels_lite_event") == [(0,)])
    time.sleep(1)  # what was claimed last is said
    for reader in load.readers:
        load.collect(reader)
    after = [sender.do("usage") for sender in load.senders]
    lost = load.taken - len(load.received)
    with capsys.disabled():
        print(
            f"\nsoak: {SECONDS:.0f} s, {load.taken} messages, {load.kills} kills, {load.stops} "
            f"stops, {lost} lost, {len(load.received) - len(set(load.received))} twice, "
            f"largest log {largest_log / 1e6:.1f} MB"
        )
    assert len(set(load.received)) == len(load.received)
    # Three coroutines wait in each reader, and each has one message at most.
    assert 0 <= lost <= 3 * load.kills
    assert largest_log < 20e6
    for then, now in zip(before, after, strict=True):
        assert now["fds"] <= then["fds"] + 8
        assert now["threads"] <= then["threads"] + 1
    alive = {reader.do("describe")["prefix"] for reader in load.readers}
    sidecar = folder / "default.sqlite3-wake"

    def tokens():
        return {path.name.partition(".")[0] for path in sidecar.iterdir()} - {"@jobs"}

    wait_until(lambda: tokens() == alive)
    wait_until(lambda: query("SELECT count(*) FROM channels_lite_groupmembership") == [(READERS,)])
