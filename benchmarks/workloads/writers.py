"""Throughput with several sending processes, ten coroutines each, to one receiver and to eight."""

from __future__ import annotations

from typing import Any

from benchmarks.peers import LAYERS
from benchmarks.stage import Figures, Stage
from benchmarks.workloads import throughput

TITLE = "Throughput, by sending processes to receiving processes"
COLUMNS = throughput.COLUMNS
HEADLINE = throughput.HEADLINE
PEERS = LAYERS


def plan(short: bool) -> dict[str, Any]:
    """As `throughput`; ``cases`` are pairs of sending and receiving processes."""
    common = {"most": 200_000, "most_polling": 3000, "most_old": 400, "tasks": 10}
    if short:
        return {
            **common,
            "rounds": 1,
            "rounds_others": 1,
            "seconds": 0.2,
            "most_old": 50,
            "cases": [[2, 1]],
        }
    cases = [[2, 1], [4, 1], [8, 1], [2, 8], [4, 8], [8, 8]]
    return {**common, "rounds": 2, "rounds_others": 1, "seconds": 0.5, "cases": cases}


def measure(stage: Stage, plan: dict[str, Any], turn: int) -> Figures:
    """Processes are started as they are needed, and few first: idle ones may poll."""
    senders, receivers = stage.start(0), stage.start(0)
    figures: Figures = {}
    for sending, receiving in plan["cases"]:
        senders += stage.start(max(0, sending - len(senders)))
        receivers += stage.start(max(0, receiving - len(receivers)))
        figures[f"{sending} to {receiving}"] = throughput.measure_case(
            stage, plan, receivers[:receiving], senders[:sending], plan["tasks"]
        )
    return figures
