"""Named places where the tests stop a process, to kill it or to let it go on.

Facts: the faults that lose messages lie between two instructions, and no stress test finds them
twice.  So: each such place has a name, and costs a look into an empty dict (30 ns) elsewhere.
Those in C are in csrc/wakeup.h.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["POINTS", "actions", "reach"]

#: Where they are, and what has happened there.
POINTS = {
    "before_commit": "a transaction has written, and holds the write lock",
    "after_commit": "messages are committed, and nobody was woken",
    "after_claim": "rows were read, or claimed and so deleted, and nobody has them",
    "after_drain": "the wake-up is used up, and nothing was looked for",
    "after_frames": "what other processes handed over is out of the socket, and nobody has it",
    "holding_checkpoint": "this process is elected, and the log is about to be checkpointed",
}

#: What happens at each instead of nothing.  Set by tests only.
actions: dict[str, Callable[[], object]] = {}


def reach(point: str) -> None:
    """Is called at each place."""
    if actions and point in actions:
        actions[point]()
