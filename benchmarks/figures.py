"""From samples to the figures that are reported.  Times come in seconds and go out in ms."""

from __future__ import annotations

__all__ = ["SHARES", "latency_figures", "quantile"]

#: The shares of the ``quantiles`` in the JSON: 200 even steps, then closer and closer to 1.
SHARES = [step / 200 for step in range(199)] + [1 - 10 ** -(2 + step / 20) for step in range(21)]


def quantile(ordered: list[float], share: float) -> float:
    """The value that ``share`` of all do not exceed; ``ordered`` is sorted and not empty."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latency_figures(seconds: list[float], quantiles: bool = False) -> dict[str, object]:
    """p50, p99, p99.9 and the maximum in ms, and the whole distribution if asked for."""
    if not seconds:
        return {}
    ordered = [value * 1e3 for value in sorted(seconds)]
    figures: dict[str, object] = {
        "p50_ms": round(quantile(ordered, 0.5), 4),
        "p99_ms": round(quantile(ordered, 0.99), 4),
        "p999_ms": round(quantile(ordered, 0.999), 4),
        "max_ms": round(ordered[-1], 4),
    }
    if quantiles:
        figures["quantiles"] = [round(quantile(ordered, share), 4) for share in SHARES]
    return figures
