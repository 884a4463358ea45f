"""Fan-out: one ``group_send()`` until the last member, in other processes, has the message.

Each member is a channel of ``new_channel()`` with a receiving task of its own, as a WebSocket
consumer is.  The next message is sent when all members have the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.peers import LAYERS, Peer
from benchmarks.probe import LoopLag
from benchmarks.stage import Child, Figures, Stage
from benchmarks.traffic import GRACE, SILENCE, WARM_UP, message, prime

TITLE = "Group message until the last member has it, members in processes"
COLUMNS = {
    "p50_ms": "p50 ms",
    "max_ms": "max ms",
    "lag_send_ms": "lag p99, sender",
    "lag_receive_ms": "lag p99, receiver",
    "join_us": "group_add us",
    "messages": "messages",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "p50_ms"
PEERS = LAYERS
ROLE = "benchmarks.workloads.fanout"


def plan(short: bool) -> dict[str, Any]:
    """``cases``: members, processes they are spread over, messages, messages of a slow peer."""
    if short:
        return {"rounds": 1, "rounds_others": 1, "most_members_slow": 100, "cases": [[20, 2, 3, 1]]}
    cases = [[10, 1, 30, 6], [100, 1, 20, 5], [500, 1, 15, 3], [5000, 1, 4, 2], [500, 8, 12, 3]]
    return {"rounds": 2, "rounds_others": 1, "most_members_slow": 500, "cases": cases}


def is_slow(peer: Peer) -> bool:
    """The polling layers, and PostgreSQL, which takes a query for each member."""
    return peer.is_polling or peer.server == "postgres"


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """A process that sends, and fresh receiving ones for each case."""
    (sender,) = stage.start(1)
    figures: Figures = {}
    for members, processes, count, count_slow in plan["cases"]:
        if is_slow(stage.peer) and members > plan["most_members_slow"]:
            continue
        receivers = stage.start(processes)
        messages = count_slow if is_slow(stage.peer) else count
        case = f"{members} in {processes}"
        figures[case] = measure_case(sender, receivers, members, messages, f"group{turn}.{case}")
        stage.end(receivers)
    return figures


def measure_case(
    sender: Child, receivers: list[Child], members: int, count: int, group: str
) -> dict[str, Any]:
    """The parent lets the sender send, and waits until every receiver says it has it."""
    group = group.replace(" ", "-")
    shares = [members // len(receivers) + (i < members % len(receivers))
              for i in range(len(receivers))]  # fmt: skip
    for receiver, share in zip(receivers, shares, strict=True):
        receiver.run(f"{ROLE}:receive", group=group, members=share)
    joined = [receiver.ready(120) for receiver in receivers]
    sender.run(f"{ROLE}:send", group=group)
    sender.ready()
    # The first one is the warm-up: listeners, caches, and members that are not receiving yet.
    times = [exchange(sender, receivers, number) for number in [WARM_UP, *range(count)]][1:]
    sender.go(None)
    lag_send = sender.result()
    for receiver in receivers:
        receiver.go(None)
    found = [receiver.result() for receiver in receivers]
    complete = [seconds for seconds, _ in times if seconds is not None]
    return {
        **latency_figures(complete),
        "messages": count,
        "lost": sum(lost for _, lost in times),
        "twice": sum(one["twice"] for one in found),
        "lag_send_ms": lag_send,
        "lag_receive_ms": max(one["lag"] for one in found),
        "join_us": round(max(joined) * 1e6, 1),
    }


def exchange(sender: Child, receivers: list[Child], number: int) -> tuple[float | None, int]:
    """One group message: seconds until the last member had it, and how many never had."""
    for receiver in receivers:
        receiver.go(number)
    for receiver in receivers:
        receiver.expect("note")  # it waits
    sender.go(number)
    sent = sender.expect("note")
    got = [receiver.expect("note") for receiver in receivers]
    lost = sum(one["lost"] for one in got)
    return (max(one["last"] for one in got) - sent if not lost else None), lost


class Members:
    """All members of one process; says when the last of them has the message it waits for."""

    def __init__(self, layer: Any, count: int):
        self._layer, self._count = layer, count
        self._number = WARM_UP
        self._left = 0
        self._complete = asyncio.Event()
        self.last = 0.0
        self.twice = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, group: str) -> float:
        """Seconds that one ``group_add()`` took."""
        # One first: that channels-postgres does not start a listener for each of them at once.
        await prime(self._layer, await self._layer.new_channel())
        channels = [await self._layer.new_channel() for _ in range(self._count)]
        started = time.monotonic()
        for channel in channels:
            await self._layer.group_add(group, channel)
        seconds = (time.monotonic() - started) / self._count
        self._tasks = [asyncio.ensure_future(self._receive(channel)) for channel in channels]
        return seconds

    async def _receive(self, channel: str) -> None:
        """One member: a plain loop; the clock is read by the last one only."""
        receive = self._layer.receive
        seen = WARM_UP - 1
        while True:
            number = (await receive(channel))["number"]
            if number == self._number and number != seen:
                self._left -= 1
                if not self._left:
                    self.last = time.monotonic()
                    self._complete.set()
            elif number != WARM_UP:
                self.twice += 1
            seen = number

    def expect(self, number: int) -> None:
        """From now on that one counts."""
        self._number, self._left = number, self._count
        self._complete.clear()

    async def wait(self) -> int:
        """Until all have it: 0; or the number of those that do not have it in time."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._complete.wait(), SILENCE)
        return self._left


async def receive(link: Link, group: str, members: int) -> dict[str, Any]:
    """Joins, then tells of each message when the last member had it."""
    own = Members(link.layer, members)
    link.tell("ready", await own.join(group))
    lag = LoopLag()
    while (number := await link.hear()) is not None:
        own.expect(number)
        link.tell("note", "waiting")
        lost = await own.wait()
        link.tell("note", {"last": own.last, "lost": lost})
        if number == WARM_UP:
            lag.restart()
    await asyncio.sleep(GRACE)
    return {"twice": own.twice, "lag": lag.stop()}


async def send(link: Link, group: str) -> float:
    """One group message each time it is told to; answers with the time before the send."""
    link.tell("ready")
    lag = LoopLag()
    while (number := await link.hear()) is not None:
        found = message(number)
        await link.layer.group_send(group, found)
        link.tell("note", found["sent"])
        if number == WARM_UP:
            lag.restart()
    return lag.stop()
