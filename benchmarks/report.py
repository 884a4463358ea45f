"""The tables: every workload, then the ratios that the project holds itself to."""

from __future__ import annotations

from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.peers import PEERS
from benchmarks.results import Results, Spread
from benchmarks.workloads import load

__all__ = ["BARS", "Bar", "print_report"]

#: Beside what each peer's headline is put, where it was measured.
REFERENCES = ["pubsub", "sqlite-floor", "memory"]


class Bar(NamedTuple):
    """A ratio of two figures of one run.  ``ours`` and ``theirs``: workload, peer, case, figure.

    Without ``theirs`` it is about the figure itself.
    """

    text: str
    ours: tuple[str, str, str, str]
    theirs: tuple[str, str, str, str] | None
    bar: float
    dream: float
    is_at_least: bool = False


BARS = [
    Bar("one-way p50 / SQLite floor's p50", ("latency", "notify", "100 B", "p50_ms"),
        ("latency", "sqlite-floor", "100 B", "p50_ms"), 1.4, 1.0),
    Bar("one-way p50 / pub/sub's", ("latency", "notify", "100 B", "p50_ms"),
        ("latency", "pubsub", "100 B", "p50_ms"), 0.45, 0.25),
    Bar("one-way p99 / pub/sub's p50", ("latency", "notify", "100 B", "p99_ms"),
        ("latency", "pubsub", "100 B", "p50_ms"), 1.0, 0.6),
    Bar("in-process p50 / InMemory's", ("inprocess", "notify", "one by one", "p50_ms"),
        ("inprocess", "memory", "one by one", "p50_ms"), 1.5, 0.8),
    Bar("throughput, 50 senders / pub/sub's", ("throughput", "notify", "50", "per_second"),
        ("throughput", "pubsub", "50", "per_second"), 8, 15, True),
    Bar("throughput, 8 processes to 1 / pub/sub's", ("writers", "notify", "8 to 1", "per_second"),
        ("writers", "pubsub", "8 to 1", "per_second"), 4, 8, True),
    Bar("fan-out 500 to last / pub/sub's", ("fanout", "notify", "500 in 1", "p50_ms"),
        ("fanout", "pubsub", "500 in 1", "p50_ms"), 0.4, 0.25),
    Bar("loop lag p99 of the sender under full load / pub/sub's",
        ("throughput", "notify", "50", "lag_send_ms"),
        ("throughput", "pubsub", "50", "lag_send_ms"), 1.0, 0.5),
    Bar("loop lag p99 of the receiver under full load / pub/sub's",
        ("throughput", "notify", "50", "lag_receive_ms"),
        ("throughput", "pubsub", "50", "lag_receive_ms"), 1.0, 0.5),
    Bar("idle switches/s, 500 channels", ("idle", "notify", "500", "switches"), None, 1.0, 0.4),
    Bar("idle CPU, 500 channels / pub/sub's", ("idle", "notify", "500", "cpu_ms"),
        ("idle", "pubsub", "500", "cpu_ms"), 0.25, 0.05),
    Bar("CPU per message, 1 M foreign rows / none, process-local channel",
        ("cost", "notify", "local, 1 M rows", "cpu_us"),
        ("cost", "notify", "local, 0 rows", "cpu_us"), 1.2, 1.0),
    Bar("CPU per message, 1 M foreign rows / none, plain channel",
        ("cost", "notify", "plain, 1 M rows", "cpu_us"),
        ("cost", "notify", "plain, 0 rows", "cpu_us"), 1.2, 1.0),
    Bar("WebSocket p99, 4 processes / pub/sub's", ("websocket", "notify", "4 processes", "p99_ms"),
        ("websocket", "pubsub", "4 processes", "p99_ms"), 0.8, 0.5),
]  # fmt: skip


def print_report(results: Results, console: Console) -> None:
    """Everything the results hold; what is missing leaves no row."""
    for name, _ in results.workloads():
        for case in results.cases(name):
            title = f"{load(name).TITLE}: {case}"
            print_table(console, title, case_table(results, name, case))
    print_table(console, "The bars, as ratios of this run", bars_table(results))
    print_table(console, "aio and core: times as good as 0.4.0", release_table(results))
    for peer, why in results.found["skipped"].items():
        console.print(f"skipped {peer}: {why}", markup=False, highlight=False)
    for failure in results.found["failed"]:
        console.print(
            f"failed in {failure['workload']}, round {failure['round'] + 1}: {failure['why']}",
            markup=False,
            highlight=False,
        )


def print_table(console: Console, title: str, table: Table) -> None:
    """The title on a line of its own, which may be wider than the table; no empty tables."""
    if table.row_count:
        console.print(f"\n{title}", style="bold", highlight=False)
        console.print(table)


def number(value: float) -> str:
    """Three digits that mean something."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.4f}"


def extent(spread: Spread | None) -> str:
    """From the lowest round to the highest; nothing where there was one."""
    if spread is None or spread.low == spread.high:
        return ""
    return f"{number(spread.low)} - {number(spread.high)}"


def case_table(results: Results, name: str, case: str) -> Table:
    """Peers in rows; the headline with its spread over the rounds, and its ratios."""
    workload = load(name)
    peers = results.peers(name, case)
    references = [peer for peer in REFERENCES if peer in peers]
    table = Table(box=SIMPLE_HEAD)
    table.add_column("peer")
    for figure, heading in workload.COLUMNS.items():
        table.add_column(heading, justify="right")
        if figure == workload.HEADLINE:
            table.add_column("spread", justify="right")
    for reference in references:
        table.add_column(f"/ {reference}", justify="right")
    for peer in peers:
        cells = [peer]
        for figure in workload.COLUMNS:
            spread = results.spread(name, peer, case, figure)
            cells.append(number(spread.median) if spread else "")
            if figure == workload.HEADLINE:
                cells.append(extent(spread))
        for reference in references:
            here = results.spread(name, peer, case, workload.HEADLINE)
            there = results.spread(name, reference, case, workload.HEADLINE)
            known = here and there and there.median
            cells.append(f"{here.median / there.median:.2f}" if known else "")  # type: ignore[union-attr]
        table.add_row(*cells, style="bold" if peer == "notify" else "")
    return table


def bars_table(results: Results) -> Table:
    """Met or not met; a bar whose figures were not measured is left out."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("what", "ratio", "bar", "dream", ""):
        table.add_column(heading, justify="left" if heading in ("what", "") else "right")
    for bar in BARS:
        ours = results.spread(*bar.ours)
        theirs = results.spread(*bar.theirs) if bar.theirs else Spread(1.0, 1.0, 1.0)
        if ours is None or theirs is None or not theirs.median:
            continue
        ratio = ours.median / theirs.median
        sign, reached = (">=", ratio >= bar.bar) if bar.is_at_least else ("<=", ratio <= bar.bar)
        dreamt = ratio >= bar.dream if bar.is_at_least else ratio <= bar.dream
        verdict = "dream met" if dreamt and reached else "met" if reached else "not met"
        style = "green" if reached else "red"
        table.add_row(
            bar.text, f"{ratio:.2f}", f"{sign} {bar.bar:g}", f"{sign} {bar.dream:g}", verdict,
            style=style,
        )  # fmt: skip
    return table


def release_table(results: Results) -> Table:
    """aio and core against the release 0.4.0: above 1 is better than it."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("workload")
    peers = [name for name, peer in PEERS.items() if f"{name}-0.4.0" in PEERS and not peer.is_old]
    for peer in peers:
        table.add_column(peer, justify="right")
    for name, _ in results.workloads():
        headline = load(name).HEADLINE
        for case in results.cases(name):
            cells = []
            for peer in peers:
                new = results.spread(name, peer, case, headline)
                old = results.spread(name, f"{peer}-0.4.0", case, headline)
                if new is None or old is None or not new.median or not old.median:
                    cells.append("")
                    continue
                times = new.median / old.median
                cells.append(f"{times if headline.endswith('per_second') else 1 / times:.2f}")
            if any(cells):
                table.add_row(f"{name}, {case}", *cells)
    return table
