"""Whatever is appended, joined, left, trimmed, flushed and restarted: as a plain list would be."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import ClassVar

from django.apps import apps
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.properties.machine import PROCESSES, RARELY, LayersMachine, run_machine

GROUPS = st.sampled_from(["chat_one", "chat_two"])
#: Messages that a group keeps.
KEPT = 6


@dataclass
class Client:
    """What a browser knows, and what it still has to get."""

    group: str
    process: int
    channel: str
    #: The history_id of the last message; and what is due.
    position: str
    due: list[int] = field(default_factory=list)
    #: Whether it may be told that something is gone.
    may_have_gap: bool = False


class Machine(LayersMachine):
    """Does to two layers, and to lists, the same."""

    config: ClassVar = {
        "channel_capacity": {"small.*": 2},
        "auto_trim": False,
        "group_history": {"chat*": {"messages": KEPT, "seconds": 3600}},
    }

    @initialize()
    def begin(self):
        self.begin_layers()
        self.begin_clients()

    def begin_clients(self):
        self.numbers = itertools.count()
        self.clients = []
        #: Positions of clients that have gone, with their group and what they have missed.
        self.away = []

    @rule(group=GROUPS, process=PROCESSES, prefix=st.sampled_from(["specific", "small"]))
    def join(self, group, process, prefix):
        if len(self.clients) < 6:
            channel = self.run(self.layers[process].new_channel(prefix))
            joined = self.run(self.layers[process].group_add(group, channel))
            assert joined
            self.clients.append(Client(group, process, channel, joined.position))

    @rule(group=GROUPS, process=PROCESSES, count=st.integers(1, 5))
    def append(self, group, process, count):
        async def send(number):
            await self.layers[process].group_send(group, {"number": number})

        for number in itertools.islice(self.numbers, count):
            self.run(send(number))
            for client in self.clients + self.away:
                if client.group == group:
                    client.due.append(number)

    def take(self, client):
        """The client receives what is due; if something is gone, it is told with the next."""
        message = self.run(self.layers[client.process].receive(client.channel))
        if not message.get("history_is_complete", True):
            assert client.may_have_gap, message
            del client.due[: client.due.index(message["number"])]
        assert client.due.pop(0) == message["number"], message
        client.position = message["history_id"]

    def is_sure(self, client):
        """Whether a message comes."""
        return bool(client.due)

    @rule(number=st.integers(0, 5), count=st.integers(1, 6))
    def receive(self, number, count):
        if self.clients:
            client = self.clients[number % len(self.clients)]
            for _ in range(min(count, len(client.due))):
                if self.is_sure(client):
                    self.take(client)

    @rule(number=st.integers(0, 5), says_so=st.booleans())
    def go(self, number, says_so):
        """It leaves, or its connection is just gone."""
        if self.clients:
            client = self.clients.pop(number % len(self.clients))
            self.away.append(client)
            if says_so:
                layer = self.layers[client.process]
                self.run(layer.group_discard(client.group, client.channel))

    @rule(number=st.integers(0, 5), process=PROCESSES)
    def come_back(self, number, process):
        """On any process, from its position: all that it has missed comes, or it is told."""
        if not self.away:
            return
        client = self.away.pop(number % len(self.away))
        client.process = process
        client.channel = self.run(self.layers[process].new_channel())
        joined = self.run(
            self.layers[process].group_add(client.group, client.channel, after=client.position)
        )
        assert joined or client.may_have_gap, (client, joined)
        if not joined:
            client.due.clear()
            client.position = joined.position
        client.may_have_gap = False
        self.clients.append(client)

    @rule(process=PROCESSES)
    def read(self, process):
        """Whoever is there gets the same as is read."""
        for client in self.clients + self.away:
            found = self.run(
                self.layers[process].group_history(client.group, after=client.position)
            )
            if found:
                assert [message["number"] for message in found.messages] == client.due
            else:
                assert client.may_have_gap

    @rule(process=PROCESSES)
    def trim(self, process):
        self.run(self.layers[process].clean_expired())
        for client in self.clients + self.away:
            client.may_have_gap |= len(client.due) > KEPT

    def forget(self):
        """Nothing of before comes, and whoever was there has to join again."""
        for client in self.clients + self.away:
            client.may_have_gap = True
            client.due.clear()
        self.away += self.clients
        self.clients = []

    @rule(process=PROCESSES, does=RARELY)
    def flush(self, process, does):
        if does:
            self.run(self.layers[process].flush())
            self.forget()

    @rule(does=RARELY)
    def rewind(self, does):
        """`manage.py flush`: every table is emptied, and ids begin again."""
        if does:
            with closing(sqlite3.connect(self.database)) as database, database:
                for model in apps.get_app_config("channels_lite").get_models():
                    database.execute(f"DELETE FROM {model._meta.db_table}")
                database.execute("UPDATE sqlite_sequence SET seq = 0")
            self.forget()

    @rule(process=PROCESSES, does=RARELY)
    def restart(self, process, does):
        """A process is gone, and with it the channels of its clients."""
        if does:
            self.run(self.layers[process].close())
            self.layers[process] = self.make_layer(process)
            gone = [client for client in self.clients if client.process == process]
            self.clients = [client for client in self.clients if client.process != process]
            self.away += gone

    @rule(process=PROCESSES, does=RARELY)
    def close(self, process, does):
        """A layer that was closed works again when it is used again."""
        if does:
            self.run(self.layers[process].close())

    def teardown(self):
        """Everything that is due comes, and nothing else."""
        if not hasattr(self, "clients"):
            return
        try:
            for client in self.clients:
                while client.due:
                    self.take(client)
                layer = self.layers[client.process]
                self.run(layer.send(client.channel, {"type": "the end"}))
                assert self.run(layer.receive(client.channel)) == {"type": "the end"}
        finally:
            self.end_layers()


def test_whatever_happens(kind, database, migrated):
    """Nothing is missed without a word, nothing comes twice, and all in one order."""
    run_machine(Machine, kind=kind, migrated=migrated)
