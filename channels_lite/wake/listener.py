"""The waiter of the notify layer: sleeps until a commit writes into this process's FIFO.

The head of csrc/wakeup.h describes the protocol; its steps are marked below.  If a wake-up is lost,
the `poll` waiter that it also has finds the row.  One FIFO serves all loops and all channels of the
process.  Without a FIFO it polls, and ``reason`` says why.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from channels_lite.failpoints import reach
from channels_lite.loops import call_on
from channels_lite.wake import FLOOD_PAUSE, warn_once
from channels_lite.wake.datagrams import Frame, FrameReceiver
from channels_lite.wake.fifo import Fifo
from channels_lite.wake.hooks import hooks
from channels_lite.wake.poll import PollWaiter
from channels_lite.wake.presence import Presence
from channels_lite.wake.queues import Queues

__all__ = ["Listener"]

logger = logging.getLogger(__name__)

NO_FIFO = "this process cannot be woken through a FIFO: "
# Its commits call no SQLite hook after they become readable.
NO_LOG = (
    "the database has a rollback journal; add PRAGMA journal_mode = WAL to its "
    'OPTIONS["init_command"]'
)


class Listener:
    """Owns the socket for frames, and the loops that watch it and the FIFO.  One lock."""

    def __init__(
        self,
        woken: Callable[[frozenset[int]], None],
        look: Callable[[], None],
        tick: Callable[[], bool],
        interval: Callable[[], float],
        presence: Presence,
        *,
        take_frames: Callable[[], None],
        is_wanted: Callable[[str], bool],
        claim: Callable[[str], None],
        journal: Callable[[], str],
        is_woken_in_vain: Callable[[], bool],
        sidecar: Callable[[], Path],
        token: Callable[[], str],
    ) -> None:
        self.reason = hooks.reason
        self._woken = woken
        self._take_frames = take_frames
        self._journal = journal
        self._is_woken_in_vain = is_woken_in_vain
        self._presence = presence
        self._queues = Queues(sidecar, is_wanted, claim, is_woken_in_vain)
        self._clock = PollWaiter(look, tick, interval, self.reason)
        self._sidecar = sidecar
        self._token = token
        self._lock = threading.Lock()
        self._frames: FrameReceiver | None = None
        self._has_stopped_frames = False
        #: Frames that were in a socket when it was closed.
        self._left: list[Frame] = []
        self._loops: list[asyncio.AbstractEventLoop] = []
        #: Released FIFOs and sockets, with the loops that must still stop watching them.
        self._retired: list[tuple[set[asyncio.AbstractEventLoop], list[Fifo | FrameReceiver]]] = []
        if self.reason:
            self._say_why()

    @property
    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The loops that it wakes."""
        return list(self._clock.loops)

    @property
    def watched(self) -> set[asyncio.AbstractEventLoop]:
        """The loops on which a coroutine has received."""
        return self._clock.watched

    def _say_why(self) -> None:
        warn_once(
            logger,
            "the notify layer polls; messages arrive later, and nothing else changes: %s",
            self.reason,
        )

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """R1: makes ``loop`` watch the FIFO, creating it if needed.  False if it already does."""
        if self._retired:
            self._close_retired()
        is_new = not self.reason and loop not in self._loops and self._watch_fifo(loop)
        # After it, because the interval of the timer depends on it.
        return (loop not in self._clock.watched and self._clock.watch(loop)) or is_new

    def keep_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts only the timer: no coroutine receives there, so no wake-up is needed."""
        self._clock.keep_time(loop)

    def _watch_fifo(self, loop: asyncio.AbstractEventLoop) -> bool:
        if self._is_told_of_no_commit:
            self._fall_back(NO_LOG)
            return True
        if not self._presence.open():
            self._fall_back(NO_FIFO + self._presence.reason)
            return True
        try:
            with self._lock:
                fifo = self._presence.fifo
                if fifo is None:  # it was closed just now
                    return True
                if self._frames is None:
                    self._frames = self._make_frames()
                self._loops = [each for each in self._loops if not each.is_closed()] + [loop]
                loop.add_reader(fifo.fd, self._on_readable, loop)
                if self._frames is not None and not self._has_stopped_frames:
                    loop.add_reader(self._frames.fd, self._take_frames)
        except (OSError, NotImplementedError) as error:
            self._fall_back(NO_FIFO + str(error))
        return True

    @property
    def _is_told_of_no_commit(self) -> bool:
        return self._journal() not in ("", "wal")

    def _fall_back(self, reason: str) -> None:
        self.reason = self._clock.reason = reason
        self._say_why()
        self._let_go(lambda: None)
        self._clock.restart()

    def _make_frames(self) -> FrameReceiver | None:
        try:
            return FrameReceiver(self._sidecar(), self._token())
        except OSError as error:
            warn_once(logger, "messages arrive only as rows; no socket can be made: %s", str(error))
            return None

    def _on_readable(self, loop: asyncio.AbstractEventLoop) -> None:
        fifo = self._presence.fifo
        signs = frozenset([0])
        if fifo is not None:
            signs = fifo.drain()  # R2
            if self._is_woken_in_vain():
                # A flood: do not read the FIFO for a while, to save processor time.
                loop.remove_reader(fifo.fd)
                loop.call_later(FLOOD_PAUSE, self._believe_again, loop)
        reach("after_drain")
        self._woken(signs)  # R3; and back in the loop R4

    def _believe_again(self, loop: asyncio.AbstractEventLoop) -> None:
        fifo = self._presence.fifo
        if fifo is not None and loop in self._loops:
            loop.add_reader(fifo.fd, self._on_readable, loop)

    def listen(self, channel: str, loop: asyncio.AbstractEventLoop) -> bool:
        """R1 for a plain channel: adds a name to the FIFO, and watches the channel's queue."""
        if self._queues.watches(channel, loop):
            return False  # the next turn wakes it
        if not self.reason and not self._presence.listen(channel):
            self._fall_back(NO_FIFO + self._presence.reason)
        if not self.reason:
            try:
                return self._queues.listen(channel, loop)
            except OSError as error:
                warn_once(logger, "all processes are woken for each job, not one: %s", str(error))
        return True

    def tidy(self, channels: set[str]) -> bool:
        """Keeps the process reachable.  True: the loops must `watch` again."""
        if self.reason:
            return self._try_again()
        if self._is_told_of_no_commit:  # the file was replaced
            self._fall_back(NO_LOG)
            return False
        former = self._presence.tidy(channels)
        if self._presence.reason:
            self._fall_back(NO_FIFO + self._presence.reason)
            return False
        if former is not None:
            self._let_go(lambda: former)
            return True
        are_gone = self._queues.keep(channels)
        frames = self._frames
        if (frames is None and self._loops) or (frames is not None and not frames.is_in_place()):
            if frames is not None:
                logger.warning("the socket in %s was deleted; creating it again", self._sidecar())
            self._let_go(lambda: None)
            return True
        return are_gone

    def _try_again(self) -> bool:
        """Checks whether there is a log now, and retries what could not be created."""
        if hooks.reason or self._is_told_of_no_commit or not self._presence.is_due:
            return False
        if not self._presence.open():
            return False
        self.reason = self._clock.reason = ""
        logger.info("the notify layer polls no longer")
        self._clock.restart()
        return True

    def frames(self, limit: int | None = None) -> list[Frame]:
        """Frames that other processes sent since the last call, in the order of sending."""
        # Else another thread, in `_let_go`, could read one of them in between.
        with self._lock:
            left, self._left = self._left, []
            frames = self._frames
            new = [] if frames is None else frames.drain(limit)
        return left + new if left else new

    def stop_frames(self) -> None:
        """Stops reading the socket."""
        self._has_stopped_frames = True
        self._on_each_loop(self._stop_reading)

    def _stop_reading(self, loop: asyncio.AbstractEventLoop) -> None:
        frames = self._frames
        if frames is not None and self._has_stopped_frames:
            loop.remove_reader(frames.fd)

    def go_on_with_frames(self) -> None:
        """Reads the socket again."""
        self._has_stopped_frames = False
        self._on_each_loop(self._read_again)

    def _read_again(self, loop: asyncio.AbstractEventLoop) -> None:
        frames = self._frames
        if frames is not None and loop in self._loops:
            loop.add_reader(frames.fd, self._take_frames)

    def _on_each_loop(self, callback: Callable[[asyncio.AbstractEventLoop], None]) -> None:
        for loop in list(self._loops):
            call_on(loop, callback, loop)

    def nudge(self) -> None:
        """Looks at once if it polls; otherwise the commit has also written to its own FIFO."""
        if self.reason:
            self._clock.nudge()

    def close(self) -> None:
        """Stops watching, and removes the names."""
        self._clock.close()
        self._let_go(self._presence.close)

    def _let_go(self, fifo: Callable[[], Fifo | None]) -> None:
        """Releases the socket, the returned FIFO, and the loops that watch them."""
        self._queues.close()
        with self._lock:
            frames, self._frames = self._frames, None
            loops, self._loops = self._loops, []
            self._clock.watched.clear()
            if frames is not None:
                self._left = self._left + frames.close()
            # After the socket, whose name is in the directory that the last FIFO removes.
            mine = [each for each in (frames, fifo()) if each is not None]
            kept = self._presence.fifo
            self._retired.append((set(loops), mine))
        for loop in loops:
            call_on(loop, self._forget, loop, [] if kept is None else [kept.fd])
        self._close_retired()

    def _forget(self, loop: asyncio.AbstractEventLoop, watched: list[int]) -> None:
        for fd in watched if loop not in self._loops else ():
            loop.remove_reader(fd)
        for loops, mine in list(self._retired):
            if loop in loops:
                for each in mine:
                    loop.remove_reader(each.fd)
                loops.discard(loop)
        self._close_retired()

    def _close_retired(self) -> None:
        """Closes descriptors that no loop watches.  Their numbers may be reused from then on."""
        with self._lock:
            retired, self._retired = self._retired, []
            for loops, mine in retired:
                if any(not loop.is_closed() for loop in loops):
                    self._retired.append((loops, mine))
                    continue
                for each in mine:
                    each.abandon()

    def abandon(self) -> None:
        """Closes the parent's descriptors, which would keep its FIFO open after its death."""
        self._clock.abandon()
        self._queues.abandon()
        retired = [each for _, mine in self._retired for each in mine]
        for each in (self._frames, *retired):
            if each is not None:
                with suppress(OSError):
                    each.abandon()
