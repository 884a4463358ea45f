"""The floor under everything: looking by the clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from contextlib import suppress

from channels_lite.frames import Frame

__all__ = ["PollWaiter"]


class PollWaiter:
    """Calls ``tick`` every ``interval()`` seconds, on each loop that it watches.

    ``tick`` returns False when nobody waits for a message any more, and is not called on that loop
    again until the next ``watch``.
    """

    def __init__(
        self,
        look: Callable[[], None],
        tick: Callable[[], bool],
        interval: Callable[[], float],
        reason: str = "it is what this layer does",
    ) -> None:
        self.reason = reason
        self._look = look
        self._tick = tick
        self._interval = interval
        self._lock = threading.Lock()
        self.loops: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Starts the clock of ``loop``.  False if it runs already."""
        if loop in self.loops:
            return False
        with self._lock:
            # Loops come and go by the thousand, and are closed without a word.
            self.loops = {each: timer for each, timer in self.loops.items() if not each.is_closed()}
            self.loops[loop] = loop.call_later(self._interval(), self._on_time, loop)
        return True

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        is_wanted = True
        try:
            is_wanted = self._tick()
        finally:  # an error of one tick, which the loop reports, must not end the looking
            with self._lock:
                if loop in self.loops and is_wanted:
                    self.loops[loop] = loop.call_later(self._interval(), self._on_time, loop)
                else:
                    self.loops.pop(loop, None)

    def listen(self, channel: str) -> None:
        """Nothing to do: a look asks for every channel."""

    def tidy(self, channels: set[str]) -> None:
        """Nothing to do."""

    def report(self, received: int, full: int) -> None:
        """Nothing to do: whoever polls reads rows, and those can be counted."""

    def frames(self, limit: int | None = None) -> list[Frame]:
        """None: who polls reads rows."""
        return []

    def accept_frames(self, *, is_open: bool) -> None:
        """Nothing to do."""

    def dead(self, every: float) -> set[str]:
        """Not known: who polls leaves no name behind."""
        return set()

    def bury(self, tokens: Collection[str]) -> None:
        """Nothing to do."""

    def nudge(self) -> None:
        """Looks at once on one of the loops: receivers in this process need not wait."""
        for loop in list(self.loops):
            with suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(self._look)
                return

    def close(self) -> None:
        """Stops the clocks."""
        with self._lock:
            timers, self.loops = self.loops, {}
        for loop, timer in timers.items():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(timer.cancel)

    def abandon(self) -> None:
        """The parent's loops do not run here."""
        self.loops, self._lock = {}, threading.Lock()
