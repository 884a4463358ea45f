"""Reads a results file: the median over the rounds, and the spread."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

__all__ = ["Results", "Spread"]


class Spread(NamedTuple):
    """One figure of one peer in one case, over the rounds."""

    median: float
    low: float
    high: float


class Results:
    """The JSON, asked by workload, peer, case and figure."""

    def __init__(self, found: dict[str, Any]):
        self.found = found
        self._values: dict[tuple[str, str, str, str], list[Any]] = {}
        for workload, rest in found["workloads"].items():
            for turn in rest["turns"]:
                for case, figures in turn["figures"].items():
                    for figure, value in figures.items():
                        key = (workload, turn["peer"], case, figure)
                        self._values.setdefault(key, []).append(value)

    def spread(self, workload: str, peer: str, case: str, figure: str) -> Spread | None:
        """None where it was not measured."""
        values = self._values.get((workload, peer, case, figure))
        return Spread(median(values), min(values), max(values)) if values else None

    def quantiles(self, workload: str, peer: str, case: str) -> list[float]:
        """The median over the rounds at each of `benchmarks.figures.SHARES`; may be empty."""
        rounds = self._values.get((workload, peer, case, "quantiles"), [])
        return [median(values) for values in zip(*rounds, strict=True)]

    def cases(self, workload: str) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(key[2] for key in self._values if key[0] == workload))

    def peers(self, workload: str, case: str) -> list[str]:
        """That have a figure there."""
        keys = self._values
        return list(dict.fromkeys(key[1] for key in keys if (key[0], key[2]) == (workload, case)))

    def workloads(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and content of each."""
        yield from self.found["workloads"].items()
