"""Named places where the tests stop a process, to kill it or to let it continue.

Facts: the faults that lose messages lie between two instructions, and no stress test finds them
twice.  So: each such place has a name.  Outside tests it costs a check of an empty dict (30 ns).
The places in C are in csrc/wakeup.h.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["POINTS", "actions", "reach"]

#: The places, and what has happened there.
POINTS = {
    "before_commit": "a transaction has written, and holds the write lock",
    "after_commit": "messages are committed, and no receiver was woken",
    "after_claim": "rows were read, or claimed and so deleted, and are not delivered yet",
    "after_drain": "the wake-up was drained, and the table was not read yet",
    "after_frames": "frames of other processes are out of the socket, and not delivered yet",
    "holding_checkpoint": "this process is elected, and is about to checkpoint the log",
}

#: What to call at each place.  Only tests set it.
actions: dict[str, Callable[[], object]] = {}


def reach(point: str) -> None:
    """Called at each place."""
    if actions and point in actions:
        actions[point]()
