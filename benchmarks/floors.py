"""The two floors of the one-way latency: what the kernel, and SQLite, cost with no layer at all.

``wake-floor`` is a byte in a FIFO between two asyncio loops.  ``sqlite-floor`` is the same with one
autocommitted INSERT before the byte and one SELECT after it, and msgpack on both sides.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from typing import Any

import msgspec

from benchmarks.traffic import PAYLOAD

__all__ = ["RECEIVE", "SEND"]


async def receive_fifo(folder: str, count: int, ready: Any) -> list[float]:
    """The time itself travels as the bytes."""
    path = f"{folder}/fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    ready()
    loop, latencies = asyncio.get_running_loop(), []
    done = loop.create_future()

    def on_readable() -> None:
        latencies.append(time.monotonic() - float(os.read(reader, 32)))
        if len(latencies) == count:
            done.set_result(None)

    loop.add_reader(reader, on_readable)
    await done
    return latencies


async def send_fifo(folder: str, count: int, gap: float) -> None:
    """One time every ``gap`` seconds."""
    writer = os.open(f"{folder}/fifo", os.O_WRONLY | os.O_NONBLOCK)
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


async def receive_sqlite(folder: str, count: int, ready: Any) -> list[float]:
    """A byte, then a SELECT of what is behind the last id."""
    path = f"{folder}/fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    connection = floor_connection(folder)
    ready()
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


async def send_sqlite(folder: str, count: int, gap: float) -> None:
    """An INSERT, then a byte."""
    writer = os.open(f"{folder}/fifo", os.O_WRONLY | os.O_NONBLOCK)
    connection = floor_connection(folder)
    for _ in range(count):
        data = msgspec.msgpack.encode({"sent": time.monotonic(), "payload": PAYLOAD})
        connection.execute("INSERT INTO message (channel, data) VALUES ('c', ?)", (data,))
        os.write(writer, b"x")
        await asyncio.sleep(gap)


RECEIVE = {"wake-floor": receive_fifo, "sqlite-floor": receive_sqlite}
SEND = {"wake-floor": send_fifo, "sqlite-floor": send_sqlite}
