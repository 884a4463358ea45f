"""The machine of `tests.properties.test_histories`, whose two processes are on two nodes."""

from __future__ import annotations

import uuid

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from channels_lite import relay
from channels_lite.history import Limit
from tests.properties import test_histories
from tests.properties.machine import PROCESSES, run_machine
from tests.properties.test_histories import GROUPS, KEPT
from tests.relay.conftest import NODES


class Machine(test_histories.Machine):
    """The engine trims, and a flush of one table leaves its log as it is."""

    url: str
    aliases = tuple(NODES.values())
    trim = rewind = None

    @initialize()
    def begin(self):
        options = {"prefix": f"test-{uuid.uuid4().hex[:12]}"}
        self.config = test_histories.Machine.config | {"relay": self.url, "relay_options": options}
        self.begin_layers()
        self.begin_clients()

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
    run_machine(Machine, examples=15, kind=kind, migrated=migrated, url=engine.url)
