"""HAND OVER, the transport: messages to a process, by datagrams that need no row.

Facts: only the process that made a process-local channel may receive on it, so a row for that
channel never outlives the process; and a datagram costs a tenth of a commit.
So: a process that listens binds a datagram socket beside its FIFO, ``SIDECAR/TOKEN.frames``.  Not
the FIFO itself: any process of the user could read it empty.

What may be sent this way, and in which order with rows, is for `delivery.frames`.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from channels_lite.names import FRAMES

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows, which has no such sockets in Python either
    ioctl = None  # type: ignore[assignment]

__all__ = ["MAX_DATAGRAM", "Frame", "FrameReceiver", "Peer", "connect"]

logger = logging.getLogger(__name__)

#: Bytes of a datagram at most.  The kernel takes some 200 kB of unread ones from each sender.
MAX_DATAGRAM = 65536
# Datagrams read at once.  Linux queues 11 by default, or net.unix.max_dgram_qlen + 1.
READ_LIMIT = 1024
# Bytes of a socket's address (sun_path) on every system.
MAX_ADDRESS = 100


def _queue() -> int:
    """Datagrams that a socket's queue holds at most: of one sender no more can be unread."""
    try:
        return int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
    except (OSError, ValueError):  # another system: bounded by bytes, none below a hundred or so
        return 4096


QUEUE = _queue()


class Frame(msgspec.Struct, array_like=True):
    """A message to channels of one process."""

    #: Their non-local name, and the local parts of the channels, separated by commas.
    name: str
    recipients: str
    data: bytes
    created_at: float
    expires_at: float
    #: The id of the row that it comes after; 0: of none.
    after: int
    #: Of the table, as the sender knows it, which ``after`` and the times go by; None: not said.
    generation: int | None = None
    #: Whether it is for members of a group, which miss it if they are full; None: not said.
    is_group: bool | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Frame])


@contextmanager
def _address(path: str) -> Iterator[str]:
    """``path``, or another way to it that is short enough for a socket."""
    if len(os.fsencode(path)) <= MAX_ADDRESS:
        yield path
        return
    folder, name = os.path.split(path)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


class FrameReceiver:
    """This process's socket.  Raises ``OSError`` where there can be none."""

    def __init__(self, sidecar: Path, token: str) -> None:
        self._names_end = f"{token}!"
        self._path = sidecar / f"{token}{FRAMES}"
        making = sidecar / f".{token}{FRAMES}"
        self._socket = _socket()
        try:
            making.unlink(missing_ok=True)  # one whose making was interrupted
            with _address(str(making)) as address:
                self._socket.bind(address)
            self._inode = making.lstat().st_ino
            making.rename(self._path)
        except OSError:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()

    def is_in_place(self) -> bool:
        """Whether its name still leads here: somebody may have deleted or replaced it."""
        try:
            return self._path.lstat().st_ino == self._inode
        except OSError:
            return False

    def drain(self, limit: int | None = None) -> list[Frame]:
        """What was sent, in the order of sending; all, or about ``limit`` messages of it."""
        frames: list[Frame] = []
        for _ in range(READ_LIMIT):
            if limit is not None and len(frames) >= limit:
                break
            try:
                datagram = self._socket.recv(MAX_DATAGRAM)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    logger.warning("reading from the socket failed: %s", error)
                break
            if not datagram:  # empty, or shut down
                break
            try:
                found = _decoder.decode(datagram)
                frames += [frame for frame in found if frame.name.endswith(self._names_end)]
            except ValueError as error:  # msgspec's
                logger.error("%d bytes that are not frames were dropped: %s", len(datagram), error)
        return frames

    def close(self) -> list[Frame]:
        """Takes the name away, and returns what was sent until then: nothing can come later.

        `abandon` closes the descriptor.
        """
        with suppress(OSError):  # macOS knows no such thing
            self._socket.shutdown(socket.SHUT_RD)
        frames = self.drain()
        if self.is_in_place():
            with suppress(OSError):  # gone just now, or another user's
                self._path.unlink()
        return frames

    def abandon(self) -> None:
        """Closes the descriptor."""
        self._socket.close()


class Peer:
    """A process that listens, and the last datagrams that it may not have read yet."""

    def __init__(self, path: str) -> None:
        self._socket = _socket()
        self._datagrams: deque[int] = deque(maxlen=QUEUE)
        try:
            with _address(path) as address:
                self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def send(self, frames: list[Frame], number: int) -> None:
        """Hands them over, in its sender's datagram of this number.  Raises ``OSError``."""
        self._socket.send(_encoder.encode(frames))
        self._datagrams.append(number)

    def read_up_to(self, last: int) -> int:
        """The number of a datagram that it has read, with all before; ``last`` is the newest."""
        with suppress(OSError, ValueError):  # the socket was closed: nothing is known to be unread
            if ioctl(self._socket.fileno(), TIOCOUTQ, b"\0\0\0\0") == b"\0\0\0\0":
                return last
            # No more than these find a place in its queue.
            return self._datagrams[0] - 1 if len(self._datagrams) == QUEUE else 0
        return last

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def connect(path: str) -> Peer | None:
    """The process of this user whose socket is there, if there is one."""
    try:
        found = os.lstat(path)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            return None
        return Peer(path)
    except OSError as error:
        if isinstance(error, ConnectionRefusedError):
            with suppress(OSError):  # it was killed
                Path(path).unlink()
        return None
