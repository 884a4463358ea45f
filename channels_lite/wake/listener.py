"""The waiter of the notify layer: sleeps until a commit writes into this process's FIFO.

The protocol is at the head of csrc/wakeup.h; R1 to R5 are marked below.  One FIFO serves all loops
and all channels of the process.  Where there is none, it polls, and ``reason`` says why.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from channels_lite.failpoints import reach
from channels_lite.frames import Frame, FrameReceiver
from channels_lite.loops import call_on
from channels_lite.wake.fifo import Fifo, Report
from channels_lite.wake.hooks import hooks
from channels_lite.wake.poll import PollWaiter

__all__ = ["Listener"]

logger = logging.getLogger(__name__)

# Seconds between two looks while somebody floods the FIFO.
BREATH = 0.01
# Seconds between two reports at least.
REPORT_EVERY = 1.0
# Reasons for which layers of this process poll.
_said: set[str] = set()


class Listener:
    """Calls ``look`` when woken, and ``tick`` by a slow clock."""

    def __init__(
        self,
        look: Callable[[], None],
        tick: Callable[[], bool],
        interval: Callable[[], float],
        *,
        take_frames: Callable[[], None],
        is_woken_in_vain: Callable[[], bool],
        sidecar: Callable[[], Path],
        token: Callable[[], str],
    ) -> None:
        self.reason = hooks.reason
        self._look = look
        self._take_frames = take_frames
        self._is_woken_in_vain = is_woken_in_vain
        self._clock = PollWaiter(look, tick, interval, self.reason)
        self._sidecar = sidecar
        self._token = token
        self._interval = interval
        self._lock = threading.Lock()
        self._fifo: Fifo | None = None
        self._frames: FrameReceiver | None = None
        #: What a socket still held when it was closed.
        self._left: list[Frame] = []
        self._loops: list[asyncio.AbstractEventLoop] = []
        #: What was let go, with the loops that still have to be told.
        self._retired: list[tuple[set[asyncio.AbstractEventLoop], list[Fifo | FrameReceiver]]] = []
        self._last_report, self._reported_at = Report(), 0.0
        if self.reason:
            self._say_why()

    def _say_why(self) -> None:
        if self.reason not in _said:  # by another layer of this process
            _said.add(self.reason)
            logger.warning(
                "the notify layer polls, with all its promises but speed: %s", self.reason
            )

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """R1: makes the FIFO, once, and has ``loop`` watch it.  False if it does already."""
        if self._retired:
            self._close_retired()
        is_new = not self.reason and loop not in self._loops and self._watch_fifo(loop)
        # After it, for how often the clock ticks depends on it.
        return (loop not in self._clock.loops and self._clock.watch(loop)) or is_new

    def _watch_fifo(self, loop: asyncio.AbstractEventLoop) -> bool:
        try:
            with self._lock:
                if self._fifo is None:
                    self._fifo = Fifo(self._sidecar(), self._token())
                    self._frames = self._make_frames()
                    self._reported_at = time.monotonic()
                self._loops = [each for each in self._loops if not each.is_closed()] + [loop]
                loop.add_reader(self._fifo.fd, self._on_readable, loop)
                if self._frames is not None:
                    loop.add_reader(self._frames.fd, self._take_frames)
        except (OSError, NotImplementedError) as error:
            self._fall_back(error)
        return True

    def _fall_back(self, error: Exception) -> None:
        self.reason = self._clock.reason = f"it cannot be reached by a FIFO: {error}"
        self._say_why()
        self._let_go()
        loops = list(self._clock.loops)
        self._clock.close()
        for loop in loops:  # by the shorter interval from now on
            call_on(loop, self._clock.watch, loop)

    def _make_frames(self) -> FrameReceiver | None:
        try:
            frames = FrameReceiver(self._sidecar(), self._token())
        except OSError as error:
            logger.info("messages come as rows only, no socket can be made: %s", error)
            return None
        frames.open(is_open=True)
        return frames

    def _on_readable(self, loop: asyncio.AbstractEventLoop) -> None:
        fifo = self._fifo
        if fifo is not None:
            fifo.drain()  # R2
            if self._is_woken_in_vain():
                # A flood: the FIFO is left alone for a while, and so is the processor.
                loop.remove_reader(fifo.fd)
                loop.call_later(BREATH, self._believe_again, loop)
        reach("after_drain")
        self._look()  # R3; and back in the loop R4

    def _believe_again(self, loop: asyncio.AbstractEventLoop) -> None:
        fifo = self._fifo
        if fifo is not None and loop in self._loops:
            loop.add_reader(fifo.fd, self._on_readable, loop)

    def listen(self, channel: str) -> None:
        """R1 for a plain channel: adds a name to the FIFO."""
        try:
            with self._lock, suppress(FileNotFoundError):  # `tidy` will make it anew
                if self._fifo is not None:
                    self._fifo.link(channel)
        except OSError as error:  # a quota, say
            self._fall_back(error)

    def tidy(self, channels: set[str]) -> None:
        """Makes the FIFO anew if it was deleted, and drops names that nobody needs."""
        try:
            with self._lock, suppress(FileNotFoundError):
                if self._fifo is None:
                    return
                if self._fifo.is_in_place():
                    self._fifo.keep(channels)
                    return
        except OSError as error:  # another user's now
            self._fall_back(error)
            return
        logger.warning("the FIFO in %s is gone; making it anew", self._sidecar())
        loops = [loop for loop in self._loops if not loop.is_closed()]
        self._let_go()
        for loop in loops:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._watch_and_look, loop, channels)

    def _watch_and_look(self, loop: asyncio.AbstractEventLoop, channels: set[str]) -> None:
        self.watch(loop)
        for channel in channels:
            self.listen(channel)
        self._look()

    def report(self, received: int, full: int) -> None:
        """Says so beside the FIFO, if there were any since the last time, or until then."""
        now = time.monotonic()
        with self._lock:
            if self._fifo is None or now - self._reported_at < REPORT_EVERY:
                return
            last = self._last_report
            rate = (received - last.received) / (now - self._reported_at)
            self._reported_at = now
            if rate or last.rate or full != last.full:
                until = now + 2 * max(REPORT_EVERY, self._interval())
                self._last_report = Report(received, rate, full, until)
                self._fifo.report(self._last_report)

    def frames(self, limit: int | None = None) -> list[Frame]:
        """What other processes have handed over since the last call, in the order of sending."""
        with self._lock:
            left, self._left = self._left, []
            frames = self._frames
        return left + frames.drain(limit) if frames is not None else left

    def accept_frames(self, *, is_open: bool) -> None:
        """Shows the socket's name to senders, or takes it away."""
        frames = self._frames
        if frames is not None:
            frames.open(is_open=is_open)

    def dead(self, every: float) -> set[str] | None:
        """See `Fifo.dead`; who polls has no FIFO, and knows of nobody."""
        fifo = self._fifo
        with suppress(OSError):  # `tidy` sees to that
            if fifo is not None:
                return fifo.dead() if fifo.takes_turn(every) else None
        return set()

    def bury(self, tokens: Collection[str]) -> None:
        """See `Fifo.bury`."""
        fifo = self._fifo
        with suppress(OSError):
            if fifo is not None:
                fifo.bury(tokens)

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
            frames, self._frames = self._frames, None
            loops, self._loops = self._loops, []
            if frames is not None:
                self._left = self._left + frames.close()
            if fifo is not None:
                fifo.close()
            mine = [each for each in (fifo, frames) if each is not None]
            self._retired.append((set(loops), mine))
        for loop in loops:
            call_on(loop, self._forget, loop)
        self._close_retired()

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        for loops, mine in list(self._retired):
            if loop in loops:
                for each in mine:
                    loop.remove_reader(each.fd)
                loops.discard(loop)
        self._close_retired()

    def _close_retired(self) -> None:
        """Closes descriptors that no loop waits for: their numbers may be others' from then on."""
        with self._lock:
            retired, self._retired = self._retired, []
            for loops, mine in retired:
                if any(not loop.is_closed() for loop in loops):
                    self._retired.append((loops, mine))
                    continue
                for each in mine:
                    each.abandon()

    def abandon(self) -> None:
        """Closes the parent's descriptors, which would keep it reachable after its death."""
        self._clock.abandon()
        retired = [each for _, mine in self._retired for each in mine]
        for each in (self._fifo, self._frames, *retired):
            if each is not None:
                each.abandon()
        self._fifo, self._frames, self._retired = None, None, []
        self._left, self._loops, self._lock = [], [], threading.Lock()
        self._last_report = Report()
