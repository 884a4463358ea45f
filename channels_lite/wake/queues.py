"""HOOK and WAKE, plain channels: a row wakes one of the processes that wait.

Facts: a row of a plain channel needs one receiver.  A byte in the FIFO of each waiting process
makes all of them read the table, and all but one in vain.  But a single process that is chosen by
the sender may be busy, stopped or dead.
So: the processes that wait on a channel share one more FIFO, ``SIDECAR/.@CHANNEL``, and all watch
it.  A byte in it is a turn to claim.  The first process whose loop runs takes it out, which costs
the others a fruitless read of a pipe.  If more rows wait, it puts a turn back (`delivery.claims`).
A process that is killed with a turn in hand delays the row until the next turn or timed look.

Where nobody has this FIFO open, all are woken, each through its own FIFO (``csrc/wakeup.h``).

Thread: any.  Each loop has a descriptor of its own for each channel, and watches and closes it.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from channels_lite.failpoints import reach
from channels_lite.loops import call_on
from channels_lite.wake import FLOOD_PAUSE, sign_of

__all__ = ["Queues", "path_of"]

# More turns than a FIFO holds.
ALL = 1 << 20


def path_of(sidecar: Path, channel: str) -> Path:
    """The FIFO that the processes which wait on a plain channel share."""
    return sidecar / f".@{channel}"


class Queues:
    """The shared FIFOs that this process has open.  One lock."""

    def __init__(
        self,
        sidecar: Callable[[], Path],
        is_wanted: Callable[[str], bool],
        claim: Callable[[str], None],
        is_woken_in_vain: Callable[[], bool],
    ) -> None:
        self._sidecar = sidecar
        #: Whether a coroutine here waits for a row of this channel.
        self._is_wanted = is_wanted
        #: Claims rows of this channel, on a loop.
        self._claim = claim
        #: Whether many turns found no row: another program floods the FIFO, or they are left over.
        self._is_woken_in_vain = is_woken_in_vain
        self._lock = threading.Lock()
        self._open: dict[tuple[asyncio.AbstractEventLoop, str], int] = {}
        #: Descriptors that their loop watches; and those that it must still close.
        self._watched: set[int] = set()
        self._retired: set[tuple[asyncio.AbstractEventLoop, int]] = set()

    def watches(self, channel: str, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a turn at the channel already wakes ``loop``."""
        return self._open.get((loop, channel)) in self._watched

    def listen(self, channel: str, loop: asyncio.AbstractEventLoop) -> bool:
        """R1: watches the channel on ``loop``, the running one.  Whether to claim now.

        Raises ``OSError``.
        """
        fd = self._open.get((loop, channel))
        is_new = fd is None
        if fd is None:
            fd = _open(path_of(self._sidecar(), channel))
            with self._lock:
                closed = [key for key in self._open if key[0].is_closed()]
                self._open[loop, channel] = fd
            self._drop(closed)
        self._watch(loop, channel, fd)
        return _take(fd) or is_new  # R2; rows may have come before it was open

    def _watch(self, loop: asyncio.AbstractEventLoop, channel: str, fd: int) -> None:
        if self._open.get((loop, channel)) == fd and fd not in self._watched:
            self._watched.add(fd)
            loop.add_reader(fd, self._on_turn, loop, channel, fd)

    def _look_away(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self._watched.discard(fd)
        loop.remove_reader(fd)

    def _on_turn(self, loop: asyncio.AbstractEventLoop, channel: str, fd: int) -> None:
        is_in_vain = self._is_woken_in_vain()
        # After a burst, turns are left over: their rows went to those who still had others.
        if not _take(fd, ALL if is_in_vain else 1):
            return  # another process was faster
        reach("after_drain")
        if self._is_wanted(channel):
            if is_in_vain:
                self._look_away(loop, fd)
                loop.call_later(FLOOD_PAUSE, self._watch, loop, channel, fd)
            self._claim(channel)  # R3
            return
        self._look_away(loop, fd)
        with suppress(BlockingIOError):  # it is full of them
            os.write(fd, bytes([sign_of(channel)]))

    def keep(self, channels: Collection[str]) -> bool:
        """Closes all others, and those that were deleted.  True: `listen` again on each loop."""
        if not (self._open or self._retired):
            return False
        sidecar = self._sidecar()
        with self._lock:
            unused = [key for key in self._open if key[1] not in channels]
            gone = [
                (loop, channel)
                for (loop, channel), fd in self._open.items()
                if channel in channels and not _is_in_place(path_of(sidecar, channel), fd)
            ]
        self._drop(unused + gone)
        # Since `channels` were listed, a coroutine on another loop may have found its queue open.
        return bool(gone) or any(self._is_wanted(channel) for _, channel in unused)

    def close(self) -> None:
        """Closes all."""
        self._drop(list(self._open))

    def _drop(self, keys: Collection[tuple[asyncio.AbstractEventLoop, str]]) -> None:
        """Each loop closes its own descriptors; those of closed loops are closed here."""
        with self._lock:
            dropped = {(key[0], self._open.pop(key)) for key in keys if key in self._open}
            self._retired |= dropped
        for loop, fd in dropped:
            call_on(loop, self._close, loop, fd)
        for loop, fd in list(self._retired):
            if loop.is_closed():
                self._close(loop, fd)

    def _close(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        with self._lock:
            if (loop, fd) not in self._retired:
                return  # another thread was faster
            self._retired.discard((loop, fd))
            is_watched = fd in self._watched
            self._watched.discard(fd)
        if is_watched and not loop.is_closed():
            loop.remove_reader(fd)
        os.close(fd)

    def abandon(self) -> None:
        """In a forked child: closes the parent's descriptors."""
        for fd in (*self._open.values(), *(fd for _, fd in self._retired)):
            with suppress(OSError):
                os.close(fd)


def _open(path: Path) -> int:
    """Opens it to read and write, so that it stays open; makes it if it is not there."""
    while True:
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        with suppress(FileNotFoundError):  # removed just now
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            found = os.fstat(fd)
            if stat.S_ISFIFO(found.st_mode) and found.st_uid == os.geteuid():
                return fd
            os.close(fd)
            raise PermissionError(f"{path} is no FIFO of this user; remove it")


def _is_in_place(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except OSError:
        return False


def _take(fd: int, turns: int = 1) -> bool:
    try:
        return bool(os.read(fd, turns))
    except BlockingIOError:
        return False
