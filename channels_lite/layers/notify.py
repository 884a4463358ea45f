"""The notify layer: SQLite on the loop's own thread; receivers sleep until a row is committed."""

from __future__ import annotations

from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.parts import Parts
from channels_lite.store.direct import DirectStore
from channels_lite.wake import Waiter
from channels_lite.wake.listener import Listener
from channels_lite.wake.poll import PollWaiter

__all__ = ["NotifyChannelLayer"]


class NotifyChannelLayer(BaseSQLiteChannelLayer):
    """Needs the C extension, which the installation builds.  Without it, polls and warns."""

    store_class = DirectStore
    # The fallback look, for rows of a process without hooks, or of a writer that was killed
    # between commit and wake-up.
    default_interval = 5.0

    @staticmethod
    def make_waiter(parts: Parts) -> Waiter:
        """Sleeps on a FIFO, and also looks every ``polling_interval`` seconds (5)."""
        if parts.presence is None:
            return PollWaiter(
                parts.sweeper.look,
                parts.sweeper.tick,
                parts.interval,
                "an in-memory database belongs to one process",
            )
        return Listener(
            parts.woken,
            parts.sweeper.look,
            parts.sweeper.tick,
            parts.interval,
            parts.presence,
            take_frames=parts.reader.take_frames,
            is_wanted=parts.mailboxes.is_wanted,
            claim=parts.has_turn,
            journal=lambda: parts.store.journal,
            is_woken_in_vain=lambda: parts.availability.is_woken_in_vain,
            sidecar=lambda: parts.source.sidecar,
            token=lambda: parts.token,
        )
