"""A process with a layer, and what it may be told to do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["Child", "run"]


class Child:
    """One on a node, which does what it is told."""

    def __init__(self, entry: dict[str, Any], database: Path, within: tuple[str, ...]) -> None:
        told = json.dumps({"entry": entry, "database": str(database)})
        self._process = subprocess.Popen(
            [*within, sys.executable, "-m", "benchmarks.relay", "--child", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, what: str, *arguments: Any) -> None:
        """Tells it to do something; `finish` waits for it."""
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Any:
        """What it answers."""
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process has ended")
        return json.loads(line)

    def do(self, what: str, *arguments: Any) -> Any:
        """Both."""
        self.begin(what, *arguments)
        return self.finish()

    def end(self) -> None:
        """Ends it."""
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def run(told: dict[str, Any]) -> None:
    """In the child, until standard input ends."""
    import django  # noqa: PLC0415 - configured here
    from django.conf import settings  # noqa: PLC0415

    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": told["database"]}
    settings.configure(
        INSTALLED_APPS=["channels_lite"],
        DATABASES={"default": database},
        CHANNEL_LAYERS={"default": told["entry"]},
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    asyncio.run(Work().run())


class Work:
    """It answers with what the method returns."""

    def __init__(self) -> None:
        from channels.layers import get_channel_layer  # noqa: PLC0415

        self._layer = get_channel_layer()
        #: Numbers, when they were sent, and when they came.
        self._heard: list[tuple[int, float, float]] = []
        self._receiving: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Until standard input ends."""
        self._say(None)  # it is ready
        while line := await asyncio.to_thread(sys.stdin.readline):
            verb, *arguments = json.loads(line)
            self._say(await getattr(self, verb)(*arguments))
        os._exit(0)

    def _say(self, answer: Any) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    async def _receive(self, channel: str) -> None:
        while True:
            message = await self._layer.receive(channel)
            self._heard.append((message["n"], message["at"], time.monotonic()))

    async def listen(self, count: int, group: str) -> list[str]:
        """On so many channels, all in the group if there is one."""
        channels = [await self._layer.new_channel() for _ in range(count)]
        for channel in channels:
            await self.listen_plain(channel)
            if group:
                await self._layer.group_add(group, channel)
        return channels

    async def listen_plain(self, channel: str) -> None:
        """On one whose name is given."""
        self._receiving.append(asyncio.ensure_future(self._receive(channel)))
        await asyncio.sleep(0.02)

    async def send(
        self, to: str, count: int, period: float, is_group: bool, size: int = 100
    ) -> None:
        """One after the other, with a pause."""
        send = self._layer.group_send if is_group else self._layer.send
        for number in range(count):
            await send(to, message(number, size))
            await asyncio.sleep(period)

    async def send_for(self, to: str, group: str, seconds: float, period: float) -> int:
        """Direct messages for so long, and as many to a group; how many direct ones."""
        count, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            await self._layer.send(to, message(count))
            count += 1
            await self._layer.group_send(group, message(-1))
            await asyncio.sleep(period)
        return count

    async def reach(self, to: str) -> None:
        """Sends until a message is taken."""
        while True:
            try:
                await self._layer.send(to, message(0))
            except Exception:  # noqa: BLE001 - whatever the layer raises
                await asyncio.sleep(0.01)
            else:
                return

    async def flood(self, to: str, count: int, senders: int) -> float:
        """As fast as it goes, by so many coroutines; when it began."""

        async def one(first: int) -> None:
            for number in range(first, count, senders):
                await self._send_one(to, number)

        began = time.monotonic()
        await asyncio.gather(*map(one, range(senders)))
        return began

    async def _send_one(self, to: str, number: int) -> None:
        from channels.exceptions import ChannelFull  # noqa: PLC0415

        while True:
            try:
                await self._layer.send(to, message(number))
            except ChannelFull:
                await asyncio.sleep(0.001)
            else:
                return

    async def collect(self, count: int, seconds: float = 60) -> list[tuple[int, float, float]]:
        """What came, once so many did, or after so long."""
        until = time.monotonic() + seconds
        while len(self._heard) < count and time.monotonic() < until:  # noqa: ASYNC110 - any layer's
            await asyncio.sleep(0.01)
        found, self._heard = self._heard, []
        return found


def message(number: int, size: int = 100) -> dict[str, Any]:
    """One that says when it was sent."""
    return {"type": "x", "n": number, "at": time.monotonic(), "data": "x" * size}
