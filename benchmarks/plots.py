"""The plots of the README and the docs, as SVG, from a results file.

Drawn without a background and in a grey that is read on white and on black alike, and without a
date, so that the same figures give the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.figures import SHARES
from benchmarks.results import Results

__all__ = ["draw_all"]

IMAGES = Path(__file__).parent.parent / "docs" / "images"
GREY = "#808080"
#: One colour a peer in all plots; the release 0.4.0 and the floors are dashed.
COLOURS = {
    "notify": "#e8590c",
    "aio": "#2f9e44",
    "core": "#1c7ed6",
    "pubsub": "#9c36b5",
    "redis": "#e03131",
    "postgres": "#0c8599",
    "memory": "#a0785a",
    "aio-0.4.0": "#2f9e44",
    "core-0.4.0": "#1c7ed6",
    "wake-floor": GREY,
    "sqlite-floor": "#b08900",
}
STYLE: Any = {
    "svg.hashsalt": "channels-lite",
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "legend.frameon": False,
    "savefig.transparent": True,
}


def draw_all(results: Results) -> list[Path]:
    """Draws what the results have figures for; the files it wrote."""
    plots: list[tuple[str, Callable[[Results, Axes], bool]]] = [
        ("latency", draw_latency),
        ("throughput", draw_throughput),
        ("writers", draw_writers),
        ("fanout", draw_fanout),
        ("cost", draw_cost),
    ]
    IMAGES.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(STYLE):
        for name, draw in plots:
            figure, axes = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
            if draw(results, axes):
                axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
                path = IMAGES / f"bench-{name}.svg"
                figure.savefig(path, metadata={"Date": None, "Creator": None})
                paths.append(path)
            pyplot.close(figure)
    return paths


def line_style(peer: str) -> str:
    """Ours and the others solid, the release before and the floors dashed."""
    return "--" if peer.endswith(("0.4.0", "floor")) else "-"


def draw_latency(results: Results, axes: Axes) -> bool:
    """The distribution of the one-way latency at 100 B."""
    drawn = False
    for peer, colour in COLOURS.items():
        quantiles = results.quantiles("latency", peer, "100 B")
        if quantiles:
            shares = [share * 100 for share in SHARES]
            axes.plot(quantiles, shares, line_style(peer), color=colour, label=peer)
            drawn = True
    axes.set(
        xscale="log",
        xlabel="one-way latency, ms (log)",
        ylabel="messages that took at most that long, %",
        title="From send() in one process to the value in another, 100 B",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    return drawn


def draw_lines(
    results: Results, axes: Axes, workload: str, cases: dict[int, str], figure: str
) -> bool:
    """``figure`` over the numbers that ``cases`` has as its keys, both on a log axis."""
    drawn = False
    for peer, colour in COLOURS.items():
        points = [
            (count, spread)
            for count, case in cases.items()
            if (spread := results.spread(workload, peer, case, figure)) is not None
        ]
        if not points:
            continue
        counts = [count for count, _ in points]
        axes.plot(counts, [spread.median for _, spread in points], line_style(peer), marker="o",
                  markersize=4, color=colour, label=peer)  # fmt: skip
        axes.fill_between(counts, [spread.low for _, spread in points],
                          [spread.high for _, spread in points], color=colour, alpha=0.15,
                          linewidth=0)  # fmt: skip
        drawn = True
    axes.set(xscale="log", yscale="log")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xticks(list(cases), [f"{count:,}" for count in cases])
    axes.minorticks_off()
    return drawn


def draw_throughput(results: Results, axes: Axes) -> bool:
    """Messages per second over the senders of one process."""
    cases = {int(case): case for case in results.cases("throughput")}
    axes.set(
        xlabel="concurrent senders in one process",
        ylabel="messages/s (log)",
        title="Throughput to one receiver in another process",
    )
    return draw_lines(results, axes, "throughput", cases, "per_second")


def one_receiver(results: Results) -> dict[int, str]:
    """The cases of ``writers`` that have one receiving process, by their senders."""
    cases = results.cases("writers")
    return {int(case.split()[0]): case for case in cases if case.endswith(" to 1")}


def draw_writers(results: Results, axes: Axes) -> bool:
    """Messages per second over the sending processes."""
    axes.set(
        xlabel="sending processes, 10 senders each",
        ylabel="messages/s (log)",
        title="Throughput to one receiving process",
    )
    return draw_lines(results, axes, "writers", one_receiver(results), "per_second")


def draw_fanout(results: Results, axes: Axes) -> bool:
    """The time until the last member has it, over the members."""
    cases = {
        int(case.split()[0]): case for case in results.cases("fanout") if case.endswith(" in 1")
    }
    axes.set(
        xlabel="members of the group, in one other process",
        ylabel="until the last has it, ms (log)",
        title="One group_send()",
    )
    return draw_lines(results, axes, "fanout", cases, "p50_ms")


def draw_cost(results: Results, axes: Axes) -> bool:
    """CPU time per message, a server's included, over the sending processes."""
    axes.set(
        xlabel="sending processes, 10 senders each",
        ylabel="CPU per message, us, all processes and the server (log)",
        title="What a message costs",
    )
    return draw_lines(results, axes, "writers", one_receiver(results), "cpu_us")
