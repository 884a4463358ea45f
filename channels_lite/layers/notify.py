"""The product: SQLite on the loop's own thread; receivers sleep until a row is committed."""

from __future__ import annotations

from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.reader import Reader
from channels_lite.store import is_in_memory
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

    def make_waiter(self, reader: Reader) -> Waiter:
        """Sleeps on a FIFO; looks every ``polling_interval`` seconds (5) all the same."""
        if is_in_memory(self.database):
            return PollWaiter(
                reader.look, reader.tick, reader.interval, "an in-memory database is of one process"
            )
        return Listener(
            reader.woken,
            reader.tick,
            reader.interval,
            take_frames=reader.take_frames,
            is_woken_in_vain=reader.is_woken_in_vain,
            sidecar=lambda: self._source.sidecar,
            token=lambda: self.client_prefix,
        )
