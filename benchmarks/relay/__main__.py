"""Compares layers across nodes: ``python -m benchmarks.relay [--rounds 3] [--short]``.

Each contender has its own processes.  They take turns in each round.  A ratio is the median of the
rounds' ratios.  Compare only figures of the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.relay.child import run
from benchmarks.relay.places import Place, place
from benchmarks.relay.workloads import WORKLOADS, copies, outage

#: For each contender: the package that it needs, and what it does not do.
CONTENDERS = {
    "ours, NATS": ("nats", ""),
    "ours, Redis": ("redis", ""),
    "ours, no relay": ("channels_lite", ""),
    "pub/sub": ("channels_redis", "jobs"),
    "core": ("channels_redis", ""),
    "channels-nats": ("channels_nats", "jobs"),
}
#: What is also measured with both processes on one node.
ON_ONE_NODE = ("one way", "throughput")
UNITS = {"one way": "ms", "throughput": "1/s", "group": "ms", "jobs": "1/s"}
#: What is compared, how many times that of the other it may be, and whether less is better.
BARS = [
    ("on one node, one way", "ours, NATS", "ours, no relay", 1.05),
    ("on one node, one way", "ours, Redis", "ours, no relay", 1.05),
    ("on one node, throughput", "ours, NATS", "ours, no relay", 0.95),
    ("on one node, throughput", "ours, Redis", "ours, no relay", 0.95),
    ("one way", "ours, Redis", "pub/sub", 1.0),
    ("one way", "ours, NATS", "pub/sub", 0.9),
    ("one way", "ours, NATS", "channels-nats", 1.0),
    ("throughput", "ours, Redis", "pub/sub", 4.0),
    ("throughput", "ours, NATS", "pub/sub", 10.0),
    ("throughput", "ours, NATS", "channels-nats", 1.0),
    ("group", "ours, Redis", "pub/sub", 0.6),
    ("group", "ours, NATS", "pub/sub", 0.6),
    ("group", "ours, NATS", "channels-nats", 1.0),
    ("jobs", "ours, Redis", "core", 2.0),
    ("jobs", "ours, NATS", "core", 2.0),
]

Rounds = dict[tuple[str, str], list[float]]


def say(text: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def measure(where: Place, rounds: int, share: int) -> Rounds:
    """All workloads, all contenders in turns."""
    measured: Rounds = {}
    here, there = where.NODES
    order = list(CONTENDERS.items())
    for number in range(rounds):
        for name, workload in WORKLOADS.items():
            order = order[1:] + order[:1]  # none is always the first after a pause
            for contender, (package, lacks) in order:
                if importlib.util.find_spec(package) is None or name in lacks:
                    continue
                sys.stderr.write(f"round {number + 1}, {name}, {contender}\n")
                if contender != "ours, no relay":
                    value = workload(where, contender, there, share)
                    measured.setdefault((name, contender), []).append(value)
                if name in ON_ONE_NODE and contender.startswith("ours"):
                    value = workload(where, contender, here, share)
                    measured.setdefault((f"on one node, {name}", contender), []).append(value)
    return measured


def report(measured: Rounds) -> None:
    """Two tables: the medians, and the bars."""
    names = [each for each in CONTENDERS if any(each == name for _, name in measured)]
    say(f"| median | {' | '.join(names)} |")
    say(f"|---|{'---|' * len(names)}")
    for name in dict.fromkeys(name for name, _ in measured):
        cells = []
        for contender in names:
            values = measured.get((name, contender))
            cells.append(f"{statistics.median(values):.4g}" if values else "")
        say(f"| {name} ({UNITS[name.removeprefix('on one node, ')]}) | {' | '.join(cells)} |")
    say("\n| ratio | bar | median of the rounds | each |")
    say("|---|---|---|---|")
    for name, ours, theirs, bar in BARS:
        one, other = measured.get((name, ours), []), measured.get((name, theirs), [])
        if not other:
            continue
        ratios = [mine / its for mine, its in zip(one, other, strict=True)]
        is_less = UNITS[name.removeprefix("on one node, ")] == "ms"
        is_met = (statistics.median(ratios) <= bar) if is_less else statistics.median(ratios) >= bar
        sign, verdict = "<=" if is_less else ">=", "" if is_met else " (missed)"
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        middle = f"{statistics.median(ratios):.2f}{verdict}"
        say(f"| {name}: {ours} / {theirs} | {sign} {bar} | {middle} | {each} |")


def faults(where: Place, engines: list[str], seconds: float) -> None:
    """What a group message costs, and what happens while an engine stands still."""
    say("\n| | bar | " + " | ".join(engines) + " |")
    say("|---|---|" + "---|" * len(engines))

    def row(what: str, bar: str, value: Callable[[str], str]) -> None:
        say(f"| {what} | {bar} | {' | '.join(value(each) for each in engines)} |")

    for elsewhere, bar in ((4, "<= 4"), (0, "0")):
        row(
            f"copies of a group message that leave, members in {elsewhere} processes elsewhere",
            bar,
            lambda engine: f"{copies(where, engine, elsewhere=elsewhere):.2f}",  # noqa: B023
        )
    found = {each: outage(where, each, seconds) for each in engines}
    row(f"engine stopped {seconds:.0f} s: local messages lost", "0",
        lambda engine: f"{found[engine]['lost']:.0f}")  # fmt: skip
    row("their p99, of before", "<= 1.2", lambda engine: (
        f"{found[engine]['during'] / found[engine]['before']:.2f} "
        f"({found[engine]['during']:.2f} / {found[engine]['before']:.2f} ms)"
    ))  # fmt: skip
    row("until the first message across when it goes on", "<= 2 s",
        lambda engine: f"{found[engine]['until']:.2f} s")  # fmt: skip


def main() -> int:
    """Prints Markdown tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="whether it runs, not how fast")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(options.child)
        return 0
    engines = [each for each in ("NATS", "Redis") if importlib.util.find_spec(each.lower())]
    with tempfile.TemporaryDirectory() as folder, place(Path(folder)) as (where, what):
        versions = " and ".join(each.binary for each in where.engines.values())
        say(f"{what}; {versions}\n")
        report(measure(where, 1 if options.short else options.rounds, 20 if options.short else 1))
        faults(where, engines, 2 if options.short else 30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
