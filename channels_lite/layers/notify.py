"""The product: SQLite on the loop's own thread; receivers sleep until a row is committed."""

from __future__ import annotations

from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.engine import Engine
from channels_lite.store.direct import DirectStore
from channels_lite.wake import Waiter
from channels_lite.wake.listener import Listener
from channels_lite.wake.poll import PollWaiter

__all__ = ["NotifyChannelLayer"]


class NotifyChannelLayer(BaseSQLiteChannelLayer):
    """Needs the C extension, which is built at installation; polls, and says so, without it."""

    store_class = DirectStore
    # The fallback look, for rows that an unhooked process wrote or whose writer was killed
    # between commit and wake.
    default_interval = 5.0

    @staticmethod
    def make_waiter(engine: Engine) -> Waiter:
        """Sleeps on a FIFO; looks every ``polling_interval`` seconds (5) all the same."""
        if engine.presence is None:
            return PollWaiter(
                engine.sweeper.look,
                engine.sweeper.tick,
                engine.interval,
                "an in-memory database is of one process",
            )
        return Listener(
            engine.woken,
            engine.sweeper.look,
            engine.sweeper.tick,
            engine.interval,
            engine.presence,
            take_frames=engine.reader.take_frames,
            is_woken_in_vain=lambda: engine.availability.is_woken_in_vain,
            sidecar=lambda: engine.source.sidecar,
            token=lambda: engine.token,
        )
