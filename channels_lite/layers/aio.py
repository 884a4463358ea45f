"""The aio layer, portable and fast: aiosqlite's threads, and polling."""

from __future__ import annotations

from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.parts import Parts
from channels_lite.store.aio import AioStore
from channels_lite.wake import Waiter
from channels_lite.wake.poll import PollWaiter

__all__ = ["AIOSQLiteChannelLayer"]


class AIOSQLiteChannelLayer(BaseSQLiteChannelLayer):
    """Needs aiosqlite: ``pip install channels-lite[aio]``."""

    store_class = AioStore

    @staticmethod
    def make_waiter(parts: Parts) -> Waiter:
        """Polls every ``polling_interval`` seconds (0.1)."""
        return PollWaiter(
            parts.sweeper.look, parts.sweeper.tick, parts.interval, presence=parts.presence
        )
