"""Cost: what a message takes of the machine, and what grows with what lies in the tables.

One message every millisecond, between two processes.  CPU time, system calls and bytes written are
those of sender, receiver and server together; a polling layer's looks are in them.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from benchmarks.child import Link
from benchmarks.peers import LAYERS
from benchmarks.probe import LoopLag
from benchmarks.resources import syscalls_of, used
from benchmarks.stage import Child, Figures, Stage
from benchmarks.traffic import WARM_UP, Receiver, message, prime

TITLE = "Cost of a message, one every millisecond"
COLUMNS = {
    "cpu_us": "CPU us",
    "calls": "system calls",
    "written": "bytes written",
    "messages": "messages",
    "lost": "lost",
    "twice": "twice",
}
HEADLINE = "cpu_us"
PEERS = LAYERS
ROLE = "benchmarks.workloads.cost"

#: What a message is sent to: a process-local channel, a plain one, a group of 10 members.
KINDS = ["local", "plain", "group"]
FOREIGN_ROWS = """
    INSERT INTO channels_lite_event (created_at, expires_at, channel_name, recipients, data)
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
    SELECT ?, ? + 86400, 'foreign' || n % 10000, '', randomblob(100) FROM number
"""
FOREIGN_MEMBERS = """
    INSERT INTO channels_lite_groupmembership (group_name, channel_name, expires_at, joined_at)
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
    SELECT 'foreign' || n % 10000, 'member' || n, ? + 86400, ? FROM number
"""


def plan(short: bool) -> dict[str, Any]:
    """``rows``: of other channels that wait meanwhile; ``members``: of other groups."""
    if short:
        return {"rounds": 1, "rounds_others": 1, "count": 50, "count_others": 50,
                "count_slow": 20, "gap": 0.001,
                "rows": [0, 1000], "members": 1000, "traced": 20}  # fmt: skip
    return {"rounds": 1, "rounds_others": 1, "count": 1200, "count_others": 400,
            "count_slow": 200, "gap": 0.001,
            "rows": [0, 1000, 100_000, 1_000_000], "members": 1_000_000,
            "traced": 100}  # fmt: skip


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """With empty tables first; then, for ours, with more and more in them."""
    peer = stage.peer
    is_ours = peer.uses_sqlite and not peer.is_old
    receiver, sender = stage.start(2)
    figures: Figures = {}
    lying = 0
    for rows in plan["rows"] if is_ours else [0]:
        if rows:
            sender.run(f"{ROLE}:fill", rows=rows - lying, members=0)
            sender.result(120)
        lying = rows
        for kind in KINDS if not rows else KINDS[:2]:
            case = f"{kind}, {rows:,} rows".replace(",000", "k").replace("kk", " M")
            figures[case] = measure_case(stage, plan, receiver, sender, kind)
            if not rows:
                figures[case] |= trace(stage, plan, receiver, sender, kind)
    if is_ours:
        sender.run(f"{ROLE}:fill", rows=0, members=plan["members"])
        sender.result(120)
        case = f"group, {plan['members']:,} memberships".replace(",000", "k").replace("kk", " M")
        figures[case] = measure_case(stage, plan, receiver, sender, "group")
    return figures


def measure_case(
    stage: Stage, plan: dict[str, Any], receiver: Child, sender: Child, kind: str
) -> dict[str, Any]:
    """One stream of messages, and what it took."""
    is_slow = stage.peer.is_old or stage.peer.server == "postgres"
    is_first = stage.peer.name in ("notify", "pubsub")
    count = plan["count_slow" if is_slow else "count" if is_first else "count_others"]
    pids = begin(stage, receiver, sender, kind)
    before = used(*pids)
    found = exchange(plan, receiver, sender, count)
    spent = used(*pids).since(before)
    return {
        **found,
        "messages": count,
        "cpu_us": round(spent.cpu_seconds / count * 1e6, 1),
        "written": round(spent.written_bytes / count),
    }


def trace(
    stage: Stage, plan: dict[str, Any], receiver: Child, sender: Child, kind: str
) -> dict[str, Any]:
    """The same under strace, if that is installed."""
    pids = begin(stage, receiver, sender, kind)
    with syscalls_of(*pids) as calls:
        exchange(plan, receiver, sender, plan["traced"])
    return {} if calls.count is None else {"calls": round(calls.count / plan["traced"], 1)}


def begin(stage: Stage, receiver: Child, sender: Child, kind: str) -> list[int]:
    """Both wait for the word to go.  The processes that count."""
    receiver.run(f"{ROLE}:receive", kind=kind)
    target = receiver.ready(60)
    sender.run(f"{ROLE}:send", kind=kind, target=target)
    sender.ready(60)
    server = stage.place.get(stage.peer.server, {}).get("pid")
    return [receiver.pid, sender.pid, *([server] if server else [])]


def exchange(plan: dict[str, Any], receiver: Child, sender: Child, count: int) -> dict[str, Any]:
    """Lost and twice, of so many messages."""
    sender.go([count, plan["gap"]])
    sender.result(90)
    receiver.go(count)
    found = receiver.result(90)
    return {"lost": found["lost"], "twice": found["twice"]}


async def receive(link: Link, kind: str) -> dict[str, Any]:
    """Receives on one channel; for a group there are nine other members."""
    layer = link.layer
    own = await layer.new_channel()
    await prime(layer, own)
    # Where names may have other characters than those of groups, as channels-postgres' own do.
    token = re.sub("[^a-z0-9]", "", own)[-40:]
    target = {"local": own, "plain": f"cost-{token}", "group": f"group-{token}"}[kind]
    others = []
    if kind == "group":
        for number in range(10):
            member = await layer.new_channel() if number else own
            await layer.group_add(target, member)
            if number:
                others.append(Receiver(layer, member))
    receiver = Receiver(layer, target if kind == "plain" else own)
    link.tell("ready", target)
    lag = LoopLag()
    count = await link.hear()
    return await receiver.finish(count, lag)


async def send(link: Link, kind: str, target: str) -> None:
    """A message every ``gap`` seconds."""
    post = link.layer.group_send if kind == "group" else link.layer.send
    await post(target, message(WARM_UP))
    link.tell("ready")
    count, gap = await link.hear()
    due = time.monotonic()
    for number in range(count):
        await post(target, message(number))
        due += gap
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def fill(link: Link, rows: int, members: int) -> None:
    """Puts what is of nobody's business here into our tables."""
    from asgiref.sync import sync_to_async  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415

    def work() -> None:
        now = time.time()
        with connection.cursor() as cursor:
            if rows:
                cursor.execute(FOREIGN_ROWS.replace("%", "%%").replace("?", "%s"), [rows, now, now])
            if members:
                cursor.execute(
                    FOREIGN_MEMBERS.replace("%", "%%").replace("?", "%s"), [members, now, now]
                )
        connection.close()

    await sync_to_async(work)()
