"""Looks by timer.

The core and aio layers use only this.  In the notify layer it finds rows whose wake-up was lost.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from channels_lite.loops import call_on
from channels_lite.wake import warn_once
from channels_lite.wake.datagrams import Frame
from channels_lite.wake.presence import Presence

__all__ = ["PollWaiter"]

logger = logging.getLogger(__name__)


class PollWaiter:
    """Calls ``tick`` every ``interval()`` seconds, on each loop that it watches.

    ``tick`` returns False if no coroutine waits for a message any more.  It is then not called on
    that loop until the next ``watch``.
    """

    def __init__(
        self,
        look: Callable[[], None],
        tick: Callable[[], bool],
        interval: Callable[[], float],
        reason: str = "it is what this layer does",
        presence: Presence | None = None,
    ) -> None:
        self.reason = reason
        self._look = look
        self._tick = tick
        self._interval = interval
        self._presence = presence
        self._lock = threading.Lock()
        #: The loops whose timer runs; and those of them on which a coroutine has received, as one
        #: object that others may keep.
        self.loops: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}
        self.watched: set[asyncio.AbstractEventLoop] = set()

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Starts the timer of ``loop``.  False if it already watches it."""
        if loop in self.watched:
            return False
        if self._presence is not None and not self._presence.open():
            warn_once(
                logger,
                "this process has no FIFO beside the database, so others cannot tell when it is "
                "killed, and its channels stay in their groups until they expire: %s",
                self._presence.reason,
            )
        self.keep_time(loop)
        with self._lock:
            self.watched.intersection_update(self.loops)
            self.watched.add(loop)
        return True

    def keep_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the timer of ``loop``, unless it runs."""
        if loop in self.loops:
            return
        with self._lock:
            # There may be thousands of short-lived loops, which are closed without notice.
            self.loops = {each: timer for each, timer in self.loops.items() if not each.is_closed()}
            self.loops[loop] = loop.call_later(self._interval(), self._on_time, loop)

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        is_wanted = True
        try:
            is_wanted = self._tick()
        finally:  # an error of one tick, which the loop reports, must not stop the timer
            with self._lock:
                if loop in self.loops and is_wanted:
                    self.loops[loop] = loop.call_later(self._interval(), self._on_time, loop)
                else:
                    self.loops.pop(loop, None)
                    self.watched.discard(loop)

    def listen(self, channel: str, loop: asyncio.AbstractEventLoop) -> bool:
        """Rows wake nobody, so always claims at once."""
        return True

    def tidy(self, channels: set[str]) -> bool:
        """Keeps this process visible as alive."""
        former = None if self._presence is None else self._presence.tidy(set())
        if former is not None:
            former.abandon()
        return False

    def frames(self, limit: int | None = None) -> list[Frame]:
        """None: a process that polls reads rows."""
        return []

    def stop_frames(self) -> None:
        """Nothing to do."""

    def go_on_with_frames(self) -> None:
        """Nothing to do."""

    def nudge(self) -> None:
        """Looks at once on one of the loops, so that receivers in this process need not wait."""
        for loop in list(self.loops):
            with suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(self._look)
                return

    def close(self) -> None:
        """Stops the timers, and removes the FIFO, which no loop watches."""
        self.stop()
        fifo = None if self._presence is None else self._presence.close()
        if fifo is not None:
            fifo.abandon()

    def stop(self) -> None:
        """Stops the timers."""
        with self._lock:
            timers, self.loops = self.loops, {}
            self.watched.clear()
        for loop, timer in timers.items():
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(timer.cancel)

    def restart(self) -> None:
        """Restarts the timers with the new interval.  The next receiver on a loop watches again."""
        loops = list(self.loops)
        self.stop()
        for loop in loops:
            call_on(loop, self.keep_time, loop)

    def abandon(self) -> None:
        """In a forked child, the parent's loops do not run."""
        self.loops, self.watched, self._lock = {}, set(), threading.Lock()
