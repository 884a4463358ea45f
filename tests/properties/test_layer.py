"""Whatever is sent, received, cancelled, joined and flushed in whatever order: as specified."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import closing
from typing import ClassVar

from channels.exceptions import ChannelFull
from django.apps import apps
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from channels_lite import clock
from channels_lite.wake import datagrams
from tests.properties.machine import PROCESSES, RARELY, LayersMachine, run_machine
from tests.properties.model import STEP, Model

NUMBERS = st.integers(0, 11)
GROUPS = st.sampled_from(["one", "two", "three"])
#: Capacities of a plain channel, and of each process-local one of that prefix.
SMALL, TINY = 3, 2
#: Such a message is handed over in a file; and such a one becomes a row.
TOO_LARGE_FOR_A_DATAGRAM, TOO_LARGE_FOR_A_FILE = bytes(70_000), bytes(110_000)
LARGE = st.sampled_from([TOO_LARGE_FOR_A_DATAGRAM, TOO_LARGE_FOR_A_FILE])
THE_END = {"type": "the end"}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


class Machine(LayersMachine):
    """Does to two layers, and to the model, the same."""

    config: ClassVar = {"capacity": 1000, "channel_capacity": {"small": SMALL, "tiny.*": TINY}}

    @initialize()
    def begin(self):
        self.real_ticks, self.passed = clock.ticks, 0.0
        clock.ticks = lambda: self.real_ticks() + self.passed
        self.begin_layers()
        self.model = Model(capacities={"small": SMALL})
        self.numbers = itertools.count()
        #: Channels, and who receives on each.
        self.channels = [("plain", 0), ("small", 1)]
        for process in (0, 1):
            self.new_channel(process, "specific")
            self.new_channel(process, "tiny")

    def message(self, value):
        return {"number": next(self.numbers), "value": value}

    def pick(self, number):
        return self.channels[number % len(self.channels)]

    @rule(process=PROCESSES, prefix=st.sampled_from(["specific", "tiny"]))
    def new_channel(self, process, prefix):
        if len(self.channels) < 12:
            channel = self.run(self.layers[process].new_channel(prefix))
            self.channels.append((channel, process))
            if prefix == "tiny":
                self.model.capacities[channel] = TINY

    def is_taken(self, process, channel, message):
        """Sends.  What was received counts until it is acknowledged, which is a moment later."""
        for _ in range(2):
            try:
                self.run(self.layers[process].send(channel, message))
            except ChannelFull:
                if self.model.may_be_full(channel):
                    return False
                self.run(asyncio.sleep(0.1))
            else:
                return True
        raise AssertionError(f"{channel} is not full")

    @rule(process=PROCESSES, number=NUMBERS, value=VALUES | LARGE)
    def send(self, process, number, value):
        channel, _ = self.pick(number)
        message = self.message(value)
        if self.is_taken(process, channel, message):
            self.model.send(process, channel, message)

    @rule(process=PROCESSES, number=NUMBERS, count=st.integers(2, 40))
    def send_at_once(self, process, number, count):
        """Several coroutines in one iteration: one commit, or one datagram, for all."""
        channel, _ = self.pick(number)
        if channel in self.model.capacities:
            return
        messages = [self.message(None) for _ in range(count)]

        async def all_of_them():
            await asyncio.gather(*(self.layers[process].send(channel, each) for each in messages))

        self.run(all_of_them())
        for message in messages:
            self.model.send(process, channel, message)

    @rule(number=NUMBERS)
    def receive(self, number):
        channel, process = self.pick(number)
        if self.model.is_due(channel):
            self.model.receive(channel, self.run(self.layers[process].receive(channel)))

    @rule(number=NUMBERS, turns=st.integers(0, 6), sends=st.booleans(), process=PROCESSES)
    def receive_and_cancel(self, number, turns, sends, process):
        """Cancelled before, while or after a message comes: it is received, or still there."""
        channel, owner = self.pick(number)

        async def attempt():
            task = asyncio.ensure_future(self.layers[owner].receive(channel))
            await asyncio.sleep(0)
            message = self.message("while receiving")
            if sends and channel not in self.model.capacities:
                await self.layers[process].send(channel, message)
                self.model.send(process, channel, message)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            return None if task.cancelled() else task.result()

        message = self.run(attempt())
        if message is not None:
            self.model.receive(channel, message)

    @rule(number=NUMBERS, turns=st.integers(0, 4), process=PROCESSES)
    def compete(self, number, turns, process):
        """Of two that wait for a channel the first is cancelled; the other gets what comes."""
        channel, owner = self.pick(number)
        if channel in self.model.capacities or self.model.expected(channel):
            return
        message = self.message("for one of two")

        async def attempt():
            first, second = (
                asyncio.ensure_future(self.layers[owner].receive(channel)) for _ in range(2)
            )
            await asyncio.sleep(0)
            await self.layers[process].send(channel, message)
            for _ in range(turns):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            if first.cancelled():
                return await second
            second.cancel()
            await asyncio.wait([second])
            return first.result()

        self.model.send(process, channel, message)
        self.model.receive(channel, self.run(attempt()))

    @rule(number=NUMBERS, group=GROUPS, process=PROCESSES)
    def group_add(self, number, group, process):
        channel, _ = self.pick(number)
        self.run(self.layers[process].group_add(group, channel))
        self.model.groups[group][channel] = self.model.step

    @rule(number=NUMBERS, group=GROUPS, process=PROCESSES)
    def group_discard(self, number, group, process):
        channel, _ = self.pick(number)
        self.run(self.layers[process].group_discard(group, channel))
        self.model.groups[group].pop(channel, None)

    @rule(group=GROUPS, process=PROCESSES, value=VALUES)
    def group_send(self, group, process, value):
        message = self.message(value)
        self.run(self.layers[process].group_send(group, message))
        self.model.group_send(process, group, message)

    @rule()
    def time_passes(self):
        self.passed += STEP
        self.model.step += 1

    @rule(does=RARELY)
    def a_day_passes(self, does):
        if does:
            self.passed += 86400
            self.model.a_day_passes()

    @rule(process=PROCESSES, does=RARELY)
    def flush(self, process, does):
        if does:
            self.run(self.layers[process].flush())
            self.model.flush()
            for group in ("one", "two"):
                self.run(self.layers[1 - process].group_send(group, {"type": "nobody"}))

    @rule(does=RARELY)
    def rewind(self, does):
        """`manage.py flush`: every table is emptied, and ids begin again."""
        if does:
            with closing(sqlite3.connect(self.database)) as database, database:
                for model in apps.get_app_config("channels_lite").get_models():
                    database.execute(f"DELETE FROM {model._meta.db_table}")
                database.execute("UPDATE sqlite_sequence SET seq = 0")
            self.model.rewind()

    @rule(process=PROCESSES, does=RARELY)
    def close(self, process, does):
        """A layer that was closed works again when it is used again."""
        if does:
            self.run(self.layers[process].close())

    def teardown(self):
        """Everything that is due comes, and nothing else."""
        if not hasattr(self, "model"):
            return
        try:
            for channel, process in self.channels:
                while self.model.is_due(channel):
                    self.model.receive(channel, self.run(self.layers[process].receive(channel)))
                if not self.is_taken(0, channel, THE_END):
                    continue
                while (message := self.run(self.layers[process].receive(channel))) != THE_END:
                    self.model.receive(channel, message)
        finally:
            self.end_layers()
            clock.ticks = self.real_ticks


def test_whatever_happens(kind, database, migrated, monkeypatch):
    """Nothing is lost, nothing comes twice, each sender's messages come in order."""
    monkeypatch.setattr(datagrams, "LARGEST", len(TOO_LARGE_FOR_A_FILE))
    run_machine(Machine, kind=kind, migrated=migrated)
