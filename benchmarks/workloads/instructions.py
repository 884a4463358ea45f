"""Instructions of a message, both ends in one loop, counted by callgrind.

Unlike times, the count is nearly the same in every run, whatever else the machine does.  It is the
difference of two runs, so what happens once is not in it.  System calls count as nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.child import set_up
from benchmarks.peers import PEERS as ALL
from benchmarks.servers import Missing
from benchmarks.stage import ROOT, Figures, Stage

TITLE = "Instructions of a message, both ends"
COLUMNS = {"instructions": "instructions"}
HEADLINE = "instructions"
PEERS = ["notify"]
#: How a message goes, and the name of its case.
WAYS = {
    "memory": "InMemoryChannelLayer",
    "local": "within one layer",
    "frame": "to another layer",
    "row": "on a plain channel",
}


def plan(short: bool) -> dict[str, Any]:
    """The numbers of messages of the two runs, and the ways."""
    common = {"rounds": 1, "rounds_others": 1, "few": 150}
    if short:
        return {**common, "many": 200, "ways": ["local"]}
    return {**common, "many": 450, "ways": list(WAYS)}


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """Raises ``Missing`` without valgrind."""
    if shutil.which("valgrind") is None:
        raise Missing("valgrind is not installed")
    folder = Path(stage.place["folder"])
    few, many = plan["few"], plan["many"]
    figures: Figures = {}
    for way in plan["ways"]:
        counted = count(folder, way, many) - count(folder, way, few)
        figures[WAYS[way]] = {"instructions": round(counted / (many - few))}
    return figures


def count(folder: Path, way: str, messages: int) -> int:
    """All instructions of a process that sends so many messages."""
    out = folder / "callgrind.out"
    subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}",
         sys.executable, "-m", __name__, way, str(messages), folder],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, check=True,
    )  # fmt: skip
    found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
    if found is None:
        raise Missing("callgrind has counted nothing")
    return int(found[1])


async def exchange(way: str, messages: int) -> None:
    """Each message finds a coroutine that waits for it."""
    from channels.layers import InMemoryChannelLayer  # noqa: PLC0415 - Django is set up only now

    from channels_lite.layers.notify import NotifyChannelLayer  # noqa: PLC0415 - the same

    sender: Any = InMemoryChannelLayer() if way == "memory" else NotifyChannelLayer()
    receiver: Any = NotifyChannelLayer() if way == "frame" else sender
    channel = "jobs" if way == "row" else await receiver.new_channel()
    for number in range(messages):
        task = asyncio.ensure_future(receiver.receive(channel))
        await asyncio.sleep(0)
        await sender.send(channel, {"type": "x", "number": number, "payload": "x" * 100})
        await task
    os._exit(0)


if __name__ == "__main__":
    set_up(ALL["notify"], {"folder": sys.argv[3]})
    asyncio.run(exchange(sys.argv[1], int(sys.argv[2])))
