"""The registry of workloads, and what a workload is: a module with these names.

``TITLE``      one line, for the heading of its table.
``COLUMNS``    figure -> heading with its unit, for the table; a figure may be missing in a case.
``HEADLINE``   the figure that peers are compared by; more is better if it ends in "per_second".
``PEERS``      names of the peers it runs with unless ``--layers`` says otherwise, in this order.
``plan``       ``plan(short) -> dict``: the parameters, which go into the JSON as they are; with
               ``rounds``, how often a peer has its turn, and ``rounds_others``, how often one that
               no bar is about (see `benchmarks.peers.rounds_of`).
``measure``    ``measure(stage, plan, turn) -> {case: {figure: value}}``: one turn of one peer.  A
               value is a number, or ``quantiles``, a list (see `benchmarks.figures`).

``measure`` runs in the parent.  It starts child processes by ``stage.start(count)`` and has them
run ``async def role(link, **arguments)``, which lives in the same module and is named to them by
``"benchmarks.workloads.<module>:role"`` (see `benchmarks.stage` and `benchmarks.child`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from benchmarks.stage import Figures, Stage

__all__ = ["NAMES", "Workload", "load"]

#: In the order of ``all``; each is the module of that name beside this file.
NAMES = [
    "latency", "pingpong", "inprocess", "throughput", "offered", "writers", "fanout",
    "history", "jobs", "idle", "cost", "websocket", "views", "instructions",
]  # fmt: skip


class Workload(Protocol):
    """What the names at the head of this module are typed as."""

    TITLE: str
    COLUMNS: dict[str, str]
    HEADLINE: str
    PEERS: list[str]

    def plan(self, short: bool) -> dict[str, Any]: ...
    def measure(self, stage: Stage, plan: dict[str, Any], turn: int) -> Figures: ...


def load(name: str) -> Workload:
    """The module of the workload ``name``, one of ``NAMES``."""
    return cast(Workload, import_module(f"{__name__}.{name}"))
