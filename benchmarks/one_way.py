"""One-way latency: from ``send()`` in one process to the value in hand in another.

``python -m benchmarks.one_way [--count 1000] [--gap 0.004]`` runs two floors and the three layers,
in turns, and prints a table.  The floors: ``fifo``, a byte between two asyncio loops, is the
kernel's wake-up; ``sqlite`` is the same with one INSERT before the byte and one SELECT after it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

LAYERS = {
    "notify": "channels_lite.layers.notify.NotifyChannelLayer",
    "aio": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
    "core": "channels_lite.layers.core.SQLiteChannelLayer",
}
WHATS = ["fifo", "sqlite", *LAYERS]
PAYLOAD = "x" * 100


def set_up(what: str, folder: str) -> None:
    """Configures Django for one layer."""
    import django  # noqa: PLC0415
    from django.conf import settings  # noqa: PLC0415

    settings.configure(
        INSTALLED_APPS=["channels_lite"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": f"{folder}/{what}.sqlite3",
            }
        },
        CHANNEL_LAYERS={"default": {"BACKEND": LAYERS[what], "CONFIG": {"capacity": 100_000}}},
        USE_TZ=True,
    )
    django.setup()


async def receive_layer(count: int) -> list[float]:
    """Prints the channel's name, then collects."""
    from channels.layers import get_channel_layer  # noqa: PLC0415

    layer = get_channel_layer()
    channel = await layer.new_channel()
    print(channel, flush=True)
    latencies = []
    for _ in range(count):
        message = await layer.receive(channel)
        latencies.append(time.monotonic() - message["sent"])
    return latencies


async def send_layer(channel: str, count: int, gap: float) -> None:
    """One message every ``gap`` seconds."""
    from channels.layers import get_channel_layer  # noqa: PLC0415

    layer = get_channel_layer()
    for _ in range(count):
        await layer.send(channel, {"type": "x", "sent": time.monotonic(), "payload": PAYLOAD})
        await asyncio.sleep(gap)


async def receive_fifo(folder: str, count: int) -> list[float]:
    """The floor: the time itself travels as the bytes."""
    path = f"{folder}/fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    print(path, flush=True)
    loop, latencies = asyncio.get_running_loop(), []
    done = loop.create_future()

    def on_readable() -> None:
        latencies.append(time.monotonic() - float(os.read(reader, 32)))
        if len(latencies) == count:
            done.set_result(None)

    loop.add_reader(reader, on_readable)
    await done
    return latencies


async def send_fifo(path: str, count: int, gap: float) -> None:
    """One time every ``gap`` seconds."""
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    for _ in range(count):
        os.write(writer, f"{time.monotonic():032.9f}".encode())
        await asyncio.sleep(gap)


def floor_connection(folder: str) -> sqlite3.Connection:
    """WAL, no fsync on commit, no checkpoint: as the notify layer has it."""
    connection = sqlite3.connect(f"{folder}/floor.sqlite3", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "wal_autocheckpoint = 0"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute(
        "CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY AUTOINCREMENT, channel, data)"
    )
    return connection


async def receive_sqlite(folder: str, count: int) -> list[float]:
    """A byte, then a SELECT of what is behind the last id."""
    path = f"{folder}/fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    connection = floor_connection(folder)
    print(path, flush=True)
    loop, latencies, last = asyncio.get_running_loop(), [], 0
    done = loop.create_future()

    def on_readable() -> None:
        nonlocal last
        os.read(reader, 65536)
        sql = "SELECT id, data FROM message WHERE id > ? ORDER BY id"
        for row, data in connection.execute(sql, (last,)).fetchall():
            latencies.append(time.monotonic() - msgspec.msgpack.decode(data)["sent"])
            last = row
        if len(latencies) == count:
            done.set_result(None)

    loop.add_reader(reader, on_readable)
    await done
    return latencies


async def send_sqlite(path: str, count: int, gap: float) -> None:
    """An INSERT, then a byte."""
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    connection = floor_connection(str(Path(path).parent))
    for _ in range(count):
        data = msgspec.msgpack.encode({"sent": time.monotonic(), "payload": PAYLOAD})
        connection.execute("INSERT INTO message (channel, data) VALUES ('c', ?)", (data,))
        os.write(writer, b"x")
        await asyncio.sleep(gap)


FLOORS = {"fifo": (receive_fifo, send_fifo), "sqlite": (receive_sqlite, send_sqlite)}


def child(role: str, what: str, folder: str, target: str, count: int, gap: float) -> None:
    """One side of a measurement, in its own process."""
    if what in LAYERS:
        set_up(what, folder)
    if role == "migrate":
        from django.core.management import call_command  # noqa: PLC0415

        call_command("migrate", verbosity=0)
    elif role == "receive":
        work = FLOORS[what][0](folder, count) if what in FLOORS else receive_layer(count)
        print(json.dumps(asyncio.run(work)), flush=True)
    else:
        work = FLOORS[what][1] if what in FLOORS else send_layer
        asyncio.run(work(target, count, gap))


def measure(what: str, count: int, gap: float) -> list[float]:
    """Latencies in seconds, in the order of sending, the warm-up left out."""
    with tempfile.TemporaryDirectory() as folder:

        def command(role: str, target: str = "") -> list[str]:
            return [sys.executable, "-m", "benchmarks.one_way", "--child", role, what, folder,
                    target, str(count), str(gap)]  # fmt: skip

        if what in LAYERS:
            subprocess.run(command("migrate"), check=True)
        with subprocess.Popen(command("receive"), stdout=subprocess.PIPE, text=True) as receiver:
            target = receiver.stdout.readline().strip()
            subprocess.run(command("send", target), check=True)
            latencies = json.loads(receiver.stdout.readline())
    return latencies[count // 10 :]


def quantile(values: list[float], share: float) -> float:
    """The value that ``share`` of all do not exceed, in milliseconds."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1e3


def main() -> None:
    """The table."""
    if sys.argv[1:2] == ["--child"]:
        role, what, folder, target, count, gap = sys.argv[2:]
        child(role, what, folder, target, int(count), float(gap))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="messages a round")
    parser.add_argument("--gap", type=float, default=0.004, help="seconds between two")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", nargs="*", choices=WHATS, default=WHATS)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    whats = dict.fromkeys(["fifo", *asked.what])
    found: dict[str, list[float]] = {what: [] for what in whats}
    for _ in range(asked.rounds):
        for what in whats:  # in turns: a slow minute hits all alike
            found[what] += measure(what, asked.count, asked.gap)
    floor = quantile(found["fifo"], 0.5)
    print(f"{'':8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'p50 / fifo':>12}")
    for what, values in found.items():
        p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
        print(f"{what:8}{p50:9.3f}{p99:9.3f}{quantile(values, 1):9.3f}{p50 / floor:12.1f}")
    if asked.json:
        rounded = {what: [round(value, 6) for value in values] for what, values in found.items()}
        asked.json.write_text(json.dumps(rounded))


if __name__ == "__main__":
    main()
