"""The waiter of the notify layer: sleeps until a commit writes into this process's FIFO.

The protocol is at the head of csrc/wakeup.h; R1 to R5 are marked below.  One FIFO serves all loops
and all channels of the process.  Where there is none, it polls, and ``reason`` says why.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from channels_lite.inbox import running_loop
from channels_lite.wake.fifo import Fifo
from channels_lite.wake.hooks import hooks
from channels_lite.wake.poll import PollWaiter

__all__ = ["Listener"]

logger = logging.getLogger(__name__)


class Listener:
    """Calls ``look`` when woken, and ``tick`` by a slow clock."""

    def __init__(
        self,
        look: Callable[[], None],
        tick: Callable[[], bool],
        interval: Callable[[], float],
        sidecar: Callable[[], Path],
        token: Callable[[], str],
    ) -> None:
        self.reason = hooks.reason
        self._look = look
        self._clock = PollWaiter(look, tick, interval, self.reason)
        self._sidecar = sidecar
        self._token = token
        self._lock = threading.Lock()
        self._fifo: Fifo | None = None
        self._loops: list[asyncio.AbstractEventLoop] = []
        if self.reason:
            self._say_why()

    def _say_why(self) -> None:
        logger.warning("the notify layer polls, with all its promises but speed: %s", self.reason)

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """R1: makes the FIFO, once, and has ``loop`` watch it.  False if it does already."""
        is_new = self._clock.watch(loop)
        if self.reason or loop in self._loops:
            return is_new
        with self._lock:
            try:
                if self._fifo is None:
                    self._fifo = Fifo(self._sidecar(), self._token())
                    self._fifo.reclaim()
                loop.add_reader(self._fifo.fd, self._on_readable)
            except (OSError, NotImplementedError) as error:
                self.reason = self._clock.reason = f"it cannot be reached by a FIFO: {error}"
                self._say_why()
                return True
            self._loops = [each for each in self._loops if not each.is_closed()] + [loop]
        return True

    def _on_readable(self) -> None:
        fifo = self._fifo
        if fifo is not None:
            fifo.drain()  # R2
        self._look()  # R3; and back in the loop R4

    def listen(self, channel: str) -> None:
        """R1 for a plain channel: adds a name to the FIFO."""
        if self._fifo is not None:
            with self._lock:
                self._fifo.link(channel)

    def tidy(self, channels: set[str]) -> None:
        """Makes the FIFO anew if it was deleted, and drops names that nobody needs."""
        if self._fifo is None:
            return
        with self._lock:
            if self._fifo.is_in_place():
                self._fifo.keep(channels)
                return
        logger.warning("the FIFO in %s is gone; making it anew", self._sidecar())
        loops = [loop for loop in self._loops if not loop.is_closed()]
        self._let_go()
        for loop in loops:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self.watch, loop)
        for channel in channels:
            self.listen(channel)

    def nudge(self) -> None:
        """Looks at once where it polls; else this process's own FIFO was written to as well."""
        if self.reason:
            self._clock.nudge()

    def close(self) -> None:
        """Stops watching, and removes the names."""
        self._clock.close()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            fifo, self._fifo = self._fifo, None
            loops, self._loops = self._loops, []
        if fifo is None:
            return
        for loop in loops:
            if loop is running_loop():
                loop.remove_reader(fifo.fd)
            else:
                with suppress(RuntimeError):  # closed, and the selector with it
                    loop.call_soon_threadsafe(loop.remove_reader, fifo.fd)
        fifo.close()

    def abandon(self) -> None:
        """Closes the parent's descriptors, which would keep it reachable after its death."""
        self._clock.abandon()
        if self._fifo is not None:
            self._fifo.abandon()
        self._fifo, self._loops, self._lock = None, [], threading.Lock()
