"""Ctrl-C, SIGTERM and SIGHUP end a run in order: once, and never between a start and its notice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["catch_interrupts", "held"]

_state = {"held": 0, "pending": 0}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def catch_interrupts() -> None:
    """From now on each of the signals raises ``KeyboardInterrupt``, the first time."""
    for number in _SIGNALS:
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: object) -> None:
    if _state["held"]:
        _state["pending"] = 1
        return
    _raise()


def _raise() -> None:
    for number in _SIGNALS:  # the clean-up that follows is not to be interrupted
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """A signal within the block is raised at its end: a process just started has its keeper."""
    _state["held"] += 1
    try:
        yield
    finally:
        _state["held"] -= 1
    if _state["pending"] and not _state["held"]:
        _raise()
