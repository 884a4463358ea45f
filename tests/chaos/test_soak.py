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
#: Coroutines of a reader that wait for jobs; each has claimed one message at most.
COROUTINES = 3


class Load:
    """Readers of one plain channel and of a group, and those who send to both.

    The first of each live until the end.
    """

    def __init__(self, start, folder):
        self._start = start
        self._folder = folder
        self.reader_kills = self.sender_kills = self.stops = 0
        #: How many each sender, by its token, has begun to send.
        self.begun = {}
        self.taken = set()
        self.received = []
        self.readers = [self._reader() for _ in range(READERS)]
        self.senders = [self._sender() for _ in range(SENDERS)]

    def _reader(self):
        reader = self._start(TEST_CONFIG=CONFIG)
        for _ in range(COROUTINES):
            reader.do("receive", channel="jobs", count=1_000_000)
        channel = reader.do("new_channel")
        reader.do("group_add", group="room", channel=channel)
        reader.do("receive", channel=channel, count=1_000_000)
        return reader

    def _sender(self):
        sender = self._start(TEST_CONFIG=CONFIG)
        token = sender.do("describe")["prefix"]
        self.begun[token] = 0
        return sender, token

    def send(self, count, *, stopped=None, killed=None):
        """All senders at once; what was taken is entered."""
        for sender, token in self.senders:
            first = self.begun[token]
            self.begun[token] += count
            sender.begin("send_many", channel="jobs", count=count, first=first, at_once=True)
        if killed is not None:
            self.senders[killed][0].kill()
            self.senders[killed] = None
        if stopped is not None:
            # It may hold the write lock: the others wait for it, though not for ever.
            stopped.signal(signal.SIGSTOP)
            time.sleep(0.5)
            stopped.signal(signal.SIGCONT)
        for sender, token in filter(None, self.senders):
            self.taken |= {(token, number) for number in sender.finish(120)}
            sender.do("group_send", group="room", message={"type": "noise"})
        if killed is not None:
            self.senders[killed] = self._sender()

    def collect(self, reader):
        while reader.has_received():
            message = reader.received()["received"]
            if "sender" in message:
                self.received.append((message["sender"], message["number"]))

    def disturb(self, dice, count):
        """One round."""
        fault = dice.choice(["kill a reader", "kill a sender", "stop", "nothing"])
        if fault == "kill a reader":
            victim = self.readers.pop(dice.randrange(1, READERS))
            victim.kill()
            self.collect(victim)
            self.readers.append(self._reader())
            self.reader_kills += 1
        elif fault == "kill a sender":
            self.send(count, killed=dice.randrange(1, SENDERS))
            self.sender_kills += 1
        elif fault == "stop":
            everybody = self.readers + [sender for sender, _ in self.senders]
            self.send(count, stopped=dice.choice(everybody))
            self.stops += 1
        self.send(count)
        for reader in self.readers:
            self.collect(reader)

    def usage(self):
        """Of those that live until the end, and of the files."""
        grown = {"log": "default.sqlite3-wal", "table": "default.sqlite3"}
        sizes = {name: (self._folder / file).stat().st_size for name, file in grown.items()}
        for who, child in (("reader", self.readers[0]), ("sender", self.senders[0][0])):
            used = child.do("usage")
            sizes |= {f"{who}'s {what}": used[what] for what in ("fds", "threads")}
            sizes[f"{who}'s memory"] = child.do("memory")
        return sizes


@pytest.mark.chaos
def test_soak(start, folder, query, capsys):
    """Nothing comes twice; only what killed readers had claimed is lost; nothing grows."""
    dice = random.Random(8)
    load = Load(start, folder)
    began = time.monotonic()
    early = {}
    largest = {}
    while (passed := time.monotonic() - began) < SECONDS:
        load.disturb(dice, dice.randrange(1, 20))
        used = load.usage()
        largest = {what: max(size, largest.get(what, 0)) for what, size in used.items()}
        if passed < SECONDS / 10:
            early = dict(largest)
    wait_until(lambda: query("SELECT count(*) FROM channels_lite_event") == [(0,)])
    time.sleep(1)  # what was claimed last is said
    for reader in load.readers:
        load.collect(reader)
    received = set(load.received)
    lost = len(load.taken - received)
    with capsys.disabled():
        print(
            f"\nsoak: {SECONDS:.0f} s, {len(load.taken)} messages, {load.reader_kills} readers and "
            f"{load.sender_kills} senders killed, {load.stops} stopped, {lost} lost, "
            f"{len(load.received) - len(received)} twice; the largest in the first tenth, and of "
            "all: " + ", ".join(f"{what} {early[what]}, {largest[what]}" for what in largest)
        )
    assert len(received) == len(load.received)
    assert all(0 <= number < load.begun[token] for token, number in received)
    assert lost <= COROUTINES * load.reader_kills
    for what in largest:
        few = what.endswith(("fds", "threads"))
        assert largest[what] <= (early[what] + 8 if few else 1.5 * early[what] + 10e6), what
    alive = {reader.do("describe")["prefix"] for reader in load.readers}
    alive |= {token for _, token in load.senders}
    sidecar = folder / "default.sqlite3-wake"

    def tokens():
        """Those with a name; beside them are "@jobs", and ".upkeep" without one."""
        return {path.name.partition(".")[0] for path in sidecar.iterdir()} - {"@jobs", ""}

    wait_until(lambda: tokens() == alive)
    wait_until(lambda: query("SELECT count(*) FROM channels_lite_groupmembership") == [(READERS,)])
