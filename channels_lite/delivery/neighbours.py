"""RELAY: the other processes of this node, as they are seen beside its database.

Thread: any.  It has no state, so no lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from channels_lite.wake.presence import Presence

__all__ = ["Neighbours"]


class Neighbours:
    """Looks into the directory with the FIFOs of the processes that use a database."""

    def __init__(self, presence: Presence | None, sidecar: Callable[[], Path]) -> None:
        self._presence = presence
        self._sidecar = sidecar

    def see_us(self) -> bool:
        """Whether they see this process, from now on."""
        return self._presence is not None and self._presence.open()

    def include(self, token: str) -> bool:
        """Whether the process with this token has a name there."""
        return os.path.lexists(self._sidecar() / "".join(filter(str.isalnum, token)))

    def are_behind(self, flush: str) -> bool:
        """Whether this process handles the flush for its node.  The upkeep removes the mark."""
        mark = self._sidecar() / f".{''.join(filter(str.isalnum, flush))[:32]}"
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        except OSError:
            return True  # no other process could see the mark either
        return True
