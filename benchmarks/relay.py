"""Compares layers across nodes: ``python -m benchmarks.relay [--rounds 3] [--short]``.

Each contender has its own processes, and uses the same two engines on the loopback, which this
module starts.  channels-lite has a database for each node.  The contenders take turns in each
round, and the median of the rounds counts.  Compare only figures of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

OURS = "channels_lite.layers.notify.NotifyChannelLayer"
PERIOD = 0.004
SENDERS = 50
TOTAL = {"one way": 300, "throughput": 20_000, "group": 60, "jobs": 2_000}


def contenders(nats: str, redis: str) -> dict[str, dict[str, Any]]:
    """Entries of ``CHANNEL_LAYERS``; ours get a database for each node."""
    found = {
        "ours, NATS": {"BACKEND": OURS, "CONFIG": {"relay": nats}},
        "ours, Redis": {"BACKEND": OURS, "CONFIG": {"relay": redis}},
        "ours, no relay": {"BACKEND": OURS, "CONFIG": {}},
    }
    with suppress(ImportError):
        import channels_redis  # noqa: F401, PLC0415 - whether it is there

        for name, module in (("pubsub.RedisPubSub", "pub/sub"), ("core.Redis", "core")):
            backend = f"channels_redis.{name}ChannelLayer"
            found[f"channels_redis {module}"] = {"BACKEND": backend, "CONFIG": {"hosts": [redis]}}
    return found


@contextmanager
def engines(folder: Path) -> Iterator[tuple[str, str]]:
    """The URLs of both."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    ports = []
    for _ in range(2):
        with closing(socket.socket()) as found:
            found.bind(("127.0.0.1", 0))
            ports.append(str(found.getsockname()[1]))
    commands = [
        [shutil.which("nats-server", path=path), "-a", "127.0.0.1", "-p", ports[0], "-js",
         "-sd", str(folder / "nats"), "-l", os.devnull],
        [shutil.which("redis-server", path=path), "--bind", "127.0.0.1", "--port", ports[1],
         "--save", "", "--loglevel", "warning", "--dir", str(folder)],
    ]  # fmt: skip
    running = [subprocess.Popen(command) for command in commands]
    try:
        for port in ports:
            until = time.monotonic() + 20
            while time.monotonic() < until:
                with suppress(OSError), closing(socket.create_connection(("127.0.0.1", int(port)))):
                    break
                time.sleep(0.02)
        yield f"nats://127.0.0.1:{ports[0]}", f"redis://127.0.0.1:{ports[1]}/0"
    finally:
        for each in running:
            each.kill()
            each.wait()


class Child:
    """A process with a layer, which does what it is told."""

    def __init__(self, entry: dict[str, Any], database: Path) -> None:
        told = json.dumps({"entry": entry, "database": str(database)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.relay", "--child", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, what: str, *arguments: Any) -> None:
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process has ended")
        return json.loads(line)

    def do(self, what: str, *arguments: Any) -> Any:
        self.begin(what, *arguments)
        return self.finish()

    def end(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def child(told: dict[str, Any]) -> None:
    """Until standard input ends."""
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
    """What a process may be told to do; it answers with what the method returns."""

    def __init__(self) -> None:
        from channels.layers import get_channel_layer  # noqa: PLC0415

        self._layer = get_channel_layer()
        #: Numbers, when they were sent, and when they came.
        self._heard: list[tuple[int, float, float]] = []
        self._receiving: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Until standard input ends."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            verb, *arguments = json.loads(line)
            answer = await getattr(self, verb)(*arguments)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
        os._exit(0)

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

    async def send(self, to: str, count: int, period: float, is_group: bool) -> None:
        """One after the other, with a pause."""
        for number in range(count):
            await (self._layer.group_send if is_group else self._layer.send)(to, message(number))
            await asyncio.sleep(period)

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

    async def collect(self, count: int) -> list[tuple[int, float, float]]:
        """What came, once so many did."""
        until = time.monotonic() + 120
        while len(self._heard) < count and time.monotonic() < until:  # noqa: ASYNC110 - any layer's
            await asyncio.sleep(0.01)
        found, self._heard = self._heard, []
        return found


def message(number: int) -> dict[str, Any]:
    """One that says when it was sent."""
    return {"type": "x", "n": number, "at": time.monotonic(), "data": "x" * 100}


@contextmanager
def processes(entry: dict[str, Any], nodes: list[Path]) -> Iterator[list[Child]]:
    """One on each of these nodes."""
    with ExitStack() as stack:
        started = [Child(entry, node) for node in nodes]
        for each in started:
            stack.callback(each.end)
        yield started


def one_way(entry: dict[str, Any], nodes: list[Path], count: int) -> float:
    """Median milliseconds from the call of ``send`` to the return of ``receive``."""
    with processes(entry, nodes[:2]) as (here, there):
        [channel] = there.do("listen", 1, "")
        here.do("send", channel, count, PERIOD, False)
        found = there.do("collect", count)
        return 1000 * statistics.median(got - sent for _, sent, got in found[20:])


def throughput(entry: dict[str, Any], nodes: list[Path], count: int) -> float:
    """Messages per second of 50 coroutines that wait for each of theirs, until the last came."""
    with processes(entry, nodes[:2]) as (here, there):
        [channel] = there.do("listen", 1, "")
        began = here.do("flood", channel, count, SENDERS)
        found = there.do("collect", count)
        return len(found) / (found[-1][2] - began)


def group(entry: dict[str, Any], nodes: list[Path], count: int) -> float:
    """Median milliseconds until the last of 200 members, on two nodes of four processes, has it."""
    with processes(entry, [*nodes[:1] * 4, *nodes[1:] * 4]) as children:
        for each in children:
            each.do("listen", 25, "room")
        children[0].do("send", "room", count, 0.02, True)
        last: dict[int, float] = {}
        sent: dict[int, float] = {}
        for each in children:
            for number, at, got in each.do("collect", 25 * count):
                last[number] = max(last.get(number, 0), got)
                sent[number] = at
        return 1000 * statistics.median(last[each] - sent[each] for each in last if each > 5)


def jobs(entry: dict[str, Any], nodes: list[Path], count: int) -> float:
    """Jobs per second through a plain channel, five that send, and one worker elsewhere."""
    with processes(entry, nodes[:2]) as (here, there):
        there.do("listen_plain", "jobs")
        began = here.do("flood", "jobs", count, 5)
        found = there.do("collect", count)
        return len(found) / (found[-1][2] - began)


WORKLOADS = {"one way": one_way, "throughput": throughput, "group": group, "jobs": jobs}


def main() -> int:
    """All workloads, all contenders in turns; prints a table, and ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="whether it runs, not how fast")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return 0
    share, rounds = (20, 1) if options.short else (1, options.rounds)
    measured: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, engines(Path(folder)) as urls:
        nodes = [Path(folder) / name / "db.sqlite3" for name in ("here", "there")]
        for node in nodes:
            node.parent.mkdir()
        for _ in range(rounds):
            for name, entry in contenders(*urls).items():
                # Without a relay all are on one node; and with one, once again, as "local".
                local = name == "ours, no relay"
                for workload, measure in WORKLOADS.items():
                    if name == "channels_redis pub/sub" and workload == "jobs":
                        continue  # it has no queue
                    count = max(40, TOTAL[workload] // share)
                    where = nodes[:1] * 2 if local else nodes
                    sys.stderr.write(f"{name}, {workload}\n")
                    measured.setdefault((name, workload), []).append(measure(entry, where, count))
                    if name.startswith("ours") and not local and workload != "group":
                        key = f"{name}, one node", workload
                        value = measure(entry, nodes[:1] * 2, count)
                        measured.setdefault(key, []).append(value)
    for (name, workload), values in measured.items():
        sys.stdout.write(f"{name:32} {workload:12} {statistics.median(values):12.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
