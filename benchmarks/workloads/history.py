"""Groups with a history, each beside a group without one: rows instead of frames.

The two groups take turns, message by message, so a slow moment affects both alike.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from benchmarks.child import Link
from benchmarks.figures import latency_figures
from benchmarks.stage import Child, Figures, Stage
from benchmarks.traffic import message

TITLE = "Groups with a history, beside groups without"
COLUMNS = {
    "p50_ms": "p50 ms",
    "ratio": "of a group without",
    "per_second": "messages/s",
    "catch_up_ms": "catch up, ms",
}
HEADLINE = "p50_ms"
PEERS = ["notify"]
ROLE = "benchmarks.workloads.history"
#: The start of the names of groups with a history, and of those without.
KINDS = ("kept", "plain")


def plan(short: bool) -> dict[str, Any]:
    """``members`` of one process, ``count`` messages to them; and a flood by ``senders``."""
    if short:
        return {
            "rounds": 1,
            "members": [1, 20],
            "count": 5,
            "senders": 5,
            "flood": 50,
            "behind": 20,
        }
    return {"rounds": 3, "members": [1, 500], "count": 200, "senders": 50, "flood": 20_000,
            "behind": 1000}  # fmt: skip


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """A process that sends, and one that has the members."""
    sender, receiver = stage.start(2)
    figures: Figures = {}
    for members in plan["members"]:
        groups = [f"{kind}-{members}" for kind in KINDS]
        receiver.run(f"{ROLE}:receive", groups=groups, members=members)
        receiver.ready(120)
        sender.run(f"{ROLE}:send")
        sender.ready()
        times = exchange(sender, receiver, groups, plan["count"])
        kept, plain = (statistics.median(times[group]) for group in groups)
        figures[f"{members} members"] = {**latency_figures(times[groups[0]]), "ratio": kept / plain}
    arguments = {name: plan[name] for name in ("senders", "flood", "behind")}
    sender.run(f"{ROLE}:flood", **arguments)
    figures["flood"] = sender.result(120)
    return figures


def exchange(
    sender: Child, receiver: Child, groups: list[str], count: int
) -> dict[str, list[float]]:
    """By group, the seconds until the last member had each message.  The first is the warm-up."""
    times: dict[str, list[float]] = {group: [] for group in groups}
    for number in range(count + 1):
        for group in groups:
            sender.go([group, number])
            sent = sender.expect("note")
            times[group].append(receiver.expect("note") - sent)
    for child in (sender, receiver):
        child.go(None)
        child.result()
    return {group: found[1:] for group, found in times.items()}


def make_layer() -> Any:
    """The notify layer, with histories."""
    from channels_lite.layers.notify import NotifyChannelLayer  # noqa: PLC0415 - needs settings

    return NotifyChannelLayer(group_history={"kept*": {"messages": 5000, "seconds": 3600}})


async def receive(link: Link, groups: list[str], members: int) -> dict[str, Any]:
    """Says when the last member has a message."""
    layer, waiting = make_layer(), members

    async def work(channel: str) -> None:
        nonlocal waiting
        while True:
            await layer.receive(channel)
            waiting -= 1
            if not waiting:
                waiting = members
                link.tell("note", time.monotonic())

    channels = [await layer.new_channel() for _ in range(members)]
    tasks = [asyncio.ensure_future(work(channel)) for channel in channels]
    for channel in channels:
        for group in groups:
            await layer.group_add(group, channel)
    link.tell("ready")
    await link.hear()
    for task in tasks:
        task.cancel()
    await layer.close()
    return {}


async def send(link: Link) -> dict[str, Any]:
    """Sends what the parent asks for."""
    layer = make_layer()
    link.tell("ready")
    while order := await link.hear():
        group, number = order
        began = time.monotonic()
        await layer.group_send(group, message(number))
        link.tell("note", began)
    await layer.close()
    return {}


async def flood(link: Link, senders: int, flood: int, behind: int) -> dict[str, Any]:
    """How many messages a second are appended, and how long a client takes to catch up."""
    layer = make_layer()

    async def work() -> None:
        for number in range(flood // senders):
            await layer.group_send("kept-flood", message(number))

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(senders)))
    per_second = flood / (time.monotonic() - began)
    last = await layer.group_history("kept-flood", limit=behind + 1)
    channel = await layer.new_channel()
    began = time.monotonic()
    await layer.group_add("kept-flood", channel, after=last.messages[0]["history_id"])
    for _ in range(len(last.messages) - 1):
        await layer.receive(channel)
    catch_up_ms = 1000 * (time.monotonic() - began)
    await layer.close()
    return {"per_second": per_second, "catch_up_ms": catch_up_ms}
