"""Two nodes of four processes each, with an engine between them, for a quarter of an hour.

Links flap, engines are killed and frozen, and processes are killed.  Rounds with a fault alternate
with rounds without one, before which every process reaches another node again.
"""

from __future__ import annotations

import collections
import json
import random
import time

import pytest

from tests.chaos.conftest import SCALE, wait_until
from tests.processes.conftest import Child, configured, end_all
from tests.relay.conftest import ENGINES
from tests.relay.conftest import engine_name as engine_name  # noqa: PLC0414 - a fixture
from tests.relay.network import Network, why_not
from tests.relay.test_network import is_sent

SECONDS = 900 * SCALE
PROCESSES = 4
#: Coroutines of a process that wait for jobs; each holds one at most.
COROUTINES = 2
LAYER = "notify.NotifyChannelLayer"


class Member:
    """A process, and the ledger of what it has sent and heard."""

    def __init__(self, node, child):
        self.node, self.child = node, child
        self.token = child.do("describe")["prefix"]
        self.channel = child.do("new_channel")
        child.do("group_add", group="room", channel=self.channel)
        child.do("receive", channel=self.channel, count=10_000_000)
        for _ in range(COROUTINES):
            child.do("receive", channel="jobs", count=10_000_000)
        #: Numbers in the room that it has heard, by sender; and its next number, as a sender.
        self.heard = collections.defaultdict(list)
        self.next = 0

    def collect(self, jobs):
        while self.child.has_received():
            came = self.child.received()
            message = came["received"]
            if "number" in message:
                mine = jobs if came["channel"] == "jobs" else self.heard[message["sender"]]
                mine.append((message["sender"], message["number"]) if mine is jobs
                            else message["number"])  # fmt: skip


class Load:
    """All members, those that were killed, and what was sent in each round."""

    def __init__(self, network, engine, folder, empty_database):
        self._network, self._engine, self._folder = network, engine, folder
        for node in network.NODES[:2]:
            (folder / node).mkdir(exist_ok=True)
            (folder / node / "default.sqlite3").write_bytes(empty_database)
        self.counts = collections.Counter()
        self.jobs, self.jobs_taken = [], set()
        self.jobs_begun = collections.Counter()
        self.dead = []
        self.rounds = []
        self.members = [self._start(node) for node in network.NODES[:2] for _ in range(PROCESSES)]

    def _start(self, node):
        environment = configured(
            LAYER, relay=self._network.url(node, self._engine), capacity=100_000
        )
        folder = self._folder / node
        log = folder / f"{time.monotonic_ns()}.log"
        within = self._network.within(node)
        return Member(node, Child(folder, log, within, TEST_LAYER=LAYER, **environment))

    def everybody_is_back(self):
        """Returns when each process reaches one of the other node, and so is reached itself."""
        for member in self.members:
            other = next(each for each in self.members if each.node != member.node)
            wait_until(lambda: is_sent(member.child, other.channel))  # noqa: B023

    def round(self, *, seconds, fault=lambda: None):
        """All send to the room; then all send jobs.  The fault comes with the first."""
        heirs = list(self.members)
        for member in heirs:
            member.child.begin("send_steadily", channel="room", seconds=seconds, every=0.02,
                               to_group=True, first=member.next)  # fmt: skip
        fault()
        sent = {}
        for member in heirs:
            if member in self.members:
                said = member.child.finish(90)
                assert not said["refused"] + said["in_doubt"]  # for a group it is counted
                self.counts["slowest"] = max(self.counts["slowest"], said["slowest"])
                sent[member] = said["taken"]
                member.next += len(said["taken"])
                self.counts["messages"] += len(said["taken"])
        for member in self.members:
            begun = self.jobs_begun[member.token]
            member.child.begin(
                "send_steadily", channel="jobs", seconds=0.3, every=0.02, first=begun
            )
        for member in self.members:
            said = member.child.finish(90)
            kinds = ("taken", "refused", "in_doubt")
            self.jobs_begun[member.token] += sum(len(said[kind]) for kind in kinds)
            self.jobs_taken |= {(member.token, number) for number in said["taken"]}
        for member in self.members:
            member.collect(self.jobs)
        return sent

    def kill(self, dice):
        index = dice.choice([0, PROCESSES]) + dice.randrange(1, PROCESSES)
        victim = self.members.pop(index)
        victim.child.kill()
        victim.collect(self.jobs)
        self.dead.append(victim)
        self.members.insert(index, self._start(victim.node))

    def flap(self, dice):
        node = dice.choice(self._network.NODES[:2])
        for _ in range(dice.randrange(1, 4)):
            self._network.cable(node, "down")
            time.sleep(dice.choice([0.2, 1, 3]))
            self._network.cable(node, "up")
            time.sleep(dice.choice([0.1, 0.5]))

    def restart(self, dice):
        self._engine.kill()
        time.sleep(dice.choice([0, 1, 3]))
        self._engine.start()

    def freeze(self, dice):
        self._engine.freeze()
        time.sleep(dice.choice([0.5, 2, 6]))
        self._engine.thaw()

    def check(self):
        """Nothing twice or out of order; nothing lost on the node, nor across in quiet rounds."""
        for receiver in (*self.members, *self.dead):
            for numbers in receiver.heard.values():
                assert numbers == sorted(set(numbers)), "twice, or out of order"
        missed = 0
        for sent, is_quiet, present in self.rounds:
            for sender, numbers in sent.items():
                for receiver in present:
                    if receiver in self.dead:
                        continue
                    lost = set(numbers) - set(receiver.heard[sender.token])
                    is_local = sender.node == receiver.node
                    assert not (lost and (is_local or is_quiet)), (is_local, is_quiet, lost)
                    missed += len(lost)
        assert len(self.jobs) == len(set(self.jobs)), "a job was done twice"
        assert all(number < self.jobs_begun[token] for token, number in self.jobs)
        self.counts["missed across in faults"] = missed
        self.counts["jobs"] = len(self.jobs_taken)
        self.counts["jobs lost"] = len(self.jobs_taken - set(self.jobs))


@pytest.mark.chaos
def test_soak_of_two_nodes(engine_name, tmp_path, empty_database, capsys):
    """On a node nothing is lost; across nothing comes twice; what was cut off comes back."""
    if reason := why_not():
        pytest.skip(reason)
    dice = random.Random(engine_name)
    network = Network()
    engine = network.engine(ENGINES[engine_name], tmp_path / "engine")
    load = None
    try:
        engine.start()
        load = Load(network, engine, tmp_path, empty_database)
        faults = [load.flap, load.restart, load.freeze, load.kill]
        until = time.monotonic() + SECONDS
        while time.monotonic() < until or len(load.rounds) < 2 * len(faults):
            fault = faults[len(load.rounds) // 2 % len(faults)]
            load.counts[fault.__name__] += 1
            for is_quiet in (False, True):
                if is_quiet:
                    load.everybody_is_back()
                present = list(load.members)
                sent = load.round(seconds=1 if is_quiet else 5,
                                  fault=(lambda: None) if is_quiet else lambda: fault(dice))  # noqa: B023  # fmt: skip
                load.rounds.append((sent, is_quiet, present))
        load.everybody_is_back()
        time.sleep(2)  # what was sent last has come
        for member in load.members:
            member.collect(load.jobs)
        load.check()
        with capsys.disabled():
            print(f"\nsoak of two nodes, {engine_name}: {SECONDS:.0f} s, {json.dumps(load.counts)}")
        # In an engine that is killed, or in hands that are cut off, those of a moment.
        assert load.counts["jobs lost"] <= load.counts["jobs"] / 5
    finally:
        if load is not None:
            end_all([member.child for member in load.members])
        engine.kill()
        network.close()
