"""The core layer, with no other dependency: Django's own connection, and polling."""

from __future__ import annotations

from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.parts import Parts
from channels_lite.store.django import DjangoStore
from channels_lite.wake import Waiter
from channels_lite.wake.poll import PollWaiter

__all__ = ["SQLiteChannelLayer"]


class SQLiteChannelLayer(BaseSQLiteChannelLayer):
    """Needs only Django, and works with any settings of its SQLite backend."""

    store_class = DjangoStore

    @staticmethod
    def make_waiter(parts: Parts) -> Waiter:
        """Polls every ``polling_interval`` seconds (0.1)."""
        return PollWaiter(
            parts.sweeper.look, parts.sweeper.tick, parts.interval, presence=parts.presence
        )
