"""Whatever somebody writes into the socket, the FIFO or the tables: it loses nothing of ours."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import tempfile
import time
from contextlib import closing, suppress

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from channels_lite.names import FRAMES
from channels_lite.wake import datagrams
from channels_lite.wake.datagrams import MAX_DATAGRAM, Frame
from tests.conftest import TIMEOUT

#: ``make chaos`` looks at many more, and at others each time.
EXAMPLES = int(25_000 * float(os.environ.get("CHAOS_SCALE", "0.012")))
LATER = time.time() + 3600


class Repeated(bytes):
    """One byte, so many times, and a report of a failure that can be read."""

    def __repr__(self):
        return f"{self[:1]!r} * {len(self)}"


TIMES = st.floats() | st.just(LATER) | st.floats(LATER, LATER + 100)
ROW_IDS = st.sampled_from([-1, 0, 1, 2**40, 2**63 - 1]) | st.integers(-(2**63), 2**64 - 1)
#: Bytes, maps that end too early, and lengths that promise more than there is.
DATA = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=20).map(lambda rest: b"\x81\xa4type" + rest),
    st.sampled_from([b"\xdf", b"\xdd", b"\xdb", b"\xc6", b"\xc9"]).map(
        lambda head: head + b"\xff\xff\xff\xff"
    ),
    st.sampled_from([1, 100, 5000]).map(lambda depth: b"\x91" * depth),
    st.just(Repeated(b"\xc1" * MAX_DATAGRAM)),
)
#: Local parts as they may stand in a row or a frame; 0 is the receiver's own.
RECIPIENTS = st.sampled_from(["0", "0,0", "0,x", "", ",", "x"]) | st.text(max_size=10)
#: What SQLite stores in any column: nothing is of the type it was declared as.
CELLS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(max_size=20),
    st.text(st.characters(codec="utf-8"), max_size=20), st.just("0"), DATA,
)  # fmt: skip
GARBAGE = st.one_of(
    st.tuples(st.just("datagram"), st.binary(max_size=200)),
    st.tuples(st.just("datagram"), st.integers(0, 200), st.integers(0, 255)),
    st.tuples(st.just("frame"), st.booleans(), RECIPIENTS, DATA, TIMES, TIMES, ROW_IDS),
    st.tuples(st.just("file"), st.sampled_from([b"", b"\xc1", b"\x90"]), st.binary(max_size=200)),
    st.tuples(st.just("file"), st.just(b"\xc1"), st.integers(0, 200), st.integers(0, 255)),
    st.tuples(st.just("data"), st.integers(0, 200), st.integers(0, 255), DATA),
    st.tuples(st.just("fifo"), st.binary(min_size=1, max_size=300)),
    st.tuples(st.just("row"), st.booleans(), RECIPIENTS | CELLS, DATA | CELLS, CELLS, CELLS),
)
#: Handed over in a datagram, or in a file; or a row.
LARGEST = 100_000
GOOD = st.tuples(st.just("good"), st.sampled_from([0, 10, MAX_DATAGRAM, LARGEST]))


class Vandal:
    """Writes what nobody should to the process of ``channel``."""

    def __init__(self, database, channel, plain):
        self.database = database
        self.plain = plain
        self.name, _, self.local = channel.partition("!")
        self.name += "!"
        self.sidecar = database.with_name(f"{database.name}-wake")
        self.token = self.name.rpartition(".")[2].rstrip("!")

    def write(self, how, *what):
        getattr(self, how)(*(bytes(each) if isinstance(each, Repeated) else each for each in what))

    def datagram(self, data, value=None):
        """Bytes; or a frame with one of its bytes changed."""
        if value is not None:
            data = self.changed(data, value)
        self.send(data)

    def changed(self, place, value):
        frame = bytearray(self.encoded(Frame(self.name, self.local, b"\x80", 0.0, LATER, 0)))
        frame[place % len(frame)] = value
        return bytes(frame)

    def file(self, datagram, data, value=None):
        """The same in a memory file, and what its datagram says."""
        with tempfile.TemporaryFile(dir="/dev/shm") as file:
            file.write(data if value is None else self.changed(data, value))
            file.flush()
            self.send(datagram, file.fileno())

    def data(self, place, value, data):
        """A file with the data of a frame, of which one byte is changed."""
        self.file(b"\xc1" + self.changed(place, value), data)

    def send(self, data, *descriptors):
        folder = os.open(self.sidecar, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
            wire.setblocking(False)
            # It is full, or has been taken away because a mailbox is.
            with suppress(BlockingIOError, FileNotFoundError):
                wire.connect(f"/proc/self/fd/{folder}/{self.token}{FRAMES}")
                socket.send_fds(wire, [data], descriptors)
        os.close(folder)

    def frame(self, is_named, recipients, data, created_at, expires_at, after):
        name = self.name if is_named else "nobody.x!"
        recipients = recipients.replace("0", self.local)
        encoded = self.encoded(Frame(name, recipients, data, created_at, expires_at, after))
        if len(encoded) <= MAX_DATAGRAM:
            self.datagram(encoded)

    def encoded(self, frame):
        return msgspec.msgpack.encode([frame])

    def fifo(self, data):
        with closing(os.fdopen(os.open(self.sidecar / self.token, os.O_WRONLY), "wb")) as fifo:
            fifo.write(data)

    def row(self, is_local, recipients, data, created_at, expires_at):
        if isinstance(recipients, str):
            recipients = recipients.replace("0", self.local)
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(
                "INSERT INTO channels_lite_event"
                " (channel_name, recipients, data, created_at, expires_at) VALUES (?, ?, ?, ?, ?)",
                (self.name if is_local else self.plain, recipients, data, created_at, expires_at),
            )


@pytest.fixture(params=["notify"])
def kind(request):
    """The one that listens to all of them; rows are read in the same way by the others."""
    return request.param


# The layers' pauses are random, and on another thread than the strategies.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
async def test_37_garbage_loses_nothing(make_layer, database, monkeypatch):
    """Between any garbage each message comes, in order, in time, and receive() never raises."""
    monkeypatch.setattr(datagrams, "LARGEST", LARGEST)
    loop = asyncio.get_running_loop()
    pairs = []
    for keys in (None, ["a key"]):
        sender, receiver = (
            make_layer(capacity=100_000, symmetric_encryption_keys=keys) for _ in range(2)
        )
        channel = await receiver.new_channel()
        await receiver.send(channel, {"type": "first"})
        await receiver.receive(channel)
        plain = "secrets" if keys else "jobs"
        pairs.append((sender, receiver, channel, plain, Vandal(database, channel, plain)))

    async def play(steps):
        for sender, receiver, channel, plain, vandal in pairs:
            expected = []
            for how, *what in steps:
                if how == "good":
                    message = {"good": len(expected), "pad": bytes(what[0])}
                    await sender.send(channel, message)
                    await sender.send(plain, message)
                    expected.append(message["good"])
                else:
                    vandal.write(how, *what)
            for name in (channel, plain):
                got = []
                while len(got) < len(expected):
                    message = await asyncio.wait_for(receiver.receive(name), TIMEOUT)
                    if "good" in message:
                        got.append(message["good"])
                assert got == expected

    # Without shrinking: no example is long, and each that fails takes its time.
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="CHAOS_SCALE" not in os.environ,
        phases=[
            Phase.explicit,
            Phase.reuse,
            Phase.generate,
        ],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(GARBAGE | GOOD, max_size=12).map(lambda steps: [*steps, ("good", 0)]))
    def examples(steps):
        asyncio.run_coroutine_threadsafe(play(steps), loop).result()

    await asyncio.to_thread(examples)
