"""The machine of `tests.properties.test_histories`, whose two processes are on two nodes."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from channels_lite import relay
from channels_lite.history import Limit
from tests.conftest import LAYERS, use_database
from tests.properties import test_histories
from tests.properties.test_histories import GROUPS, KEPT, PROCESSES, QUICK, st
from tests.relay.conftest import NODES


class Machine(test_histories.Machine):
    """The engine trims, and a flush of one table leaves its log as it is."""

    url: str

    trim = rewind = None

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.prefix = f"test-{uuid.uuid4().hex[:12]}"
        for alias in NODES.values():
            (self.folder / f"{alias}.sqlite3").write_bytes(self.migrated)
            use_database(alias, self.folder / f"{alias}.sqlite3")
        self.layers = [self.make(0), self.make(1)]
        self.start()

    def make(self, process):
        return LAYERS[self.kind](
            database=list(NODES.values())[process],
            polling_interval=60 if self.kind == "notify" else 0.01,
            channel_capacity={"small.*": 2},
            group_history={"chat*": {"messages": KEPT, "seconds": 3600}},
            relay=self.url,
            relay_options={"prefix": self.prefix},
        )

    @rule(group=GROUPS, process=PROCESSES, count=st.sampled_from([1, 2, 3, 60]))
    def append(self, group, process, count):
        async def send(number):
            await self.layers[process].group_send(group, {"number": number})

        for number in [next(self.numbers) for _ in range(count)]:
            self.run(send(number))
            for client in self.clients + self.away:
                if client.group == group:
                    client.due.append(number)
                    client.may_have_gap |= len(client.due) >= relay.most_of(Limit(KEPT, 0)) - 1


def test_whatever_happens(kind, engine, databases, migrated, monkeypatch):
    """Nothing is missed without a word, nothing comes twice, and all in one order."""
    monkeypatch.setattr(relay, "FLOOD", 100)
    what = {"kind": kind, "migrated": migrated, "url": engine.url}
    amount = QUICK | {"max_examples": 15}
    every = list(HealthCheck)
    run_state_machine_as_test(
        type("Machine", (Machine,), what),
        settings=settings(deadline=None, suppress_health_check=every, **amount),
    )
