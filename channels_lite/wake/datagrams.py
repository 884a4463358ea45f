"""HAND OVER, the transport: messages to a process as datagrams, without a row.

Facts: only the process that made a process-local channel may receive on it, so a row for that
channel never outlives the process.  A datagram costs a tenth of a commit.
So: a process that listens binds a datagram socket beside its FIFO, ``SIDECAR/TOKEN.frames``.  It
does not use the FIFO itself, which any process of the user could read empty.

`delivery.frames` decides which messages go this way, and their order with rows.
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

#: The maximum size of a datagram.  The kernel holds about 200 kB of unread ones from each sender.
MAX_DATAGRAM = 65536
# Datagrams read at once.  Linux queues 11 by default, or net.unix.max_dgram_qlen + 1.
READ_LIMIT = 1024
# Bytes that a socket's address (sun_path) may have on every system.
MAX_ADDRESS = 100


def _queue() -> int:
    """The maximum number of datagrams in a socket's queue, and so of one sender's unread ones."""
    try:
        return int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
    except (OSError, ValueError):  # another system: limited by bytes, never below about a hundred
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
    #: The id of the row that it comes after; 0: none.
    after: int
    #: The table's generation that ``after`` and the times belong to, as the sender knows it; None:
    #: not given.
    generation: int | None = None
    #: Whether it is for members of a group, which miss it if they are full; None: not given.
    is_group: bool | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Frame])


@contextmanager
def _address(path: str) -> Iterator[str]:
    """``path``, or another path to the same file that is short enough for a socket."""
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
    """This process's socket.  Raises ``OSError`` if there can be none."""

    def __init__(self, sidecar: Path, token: str) -> None:
        self._names_end = f"{token}!"
        self._path = sidecar / f"{token}{FRAMES}"
        making = sidecar / f".{token}{FRAMES}"
        self._socket = _socket()
        try:
            making.unlink(missing_ok=True)  # left by an interrupted start
            with _address(str(making)) as address:
                self._socket.bind(address)
            self._inode = making.lstat().st_ino
            making.rename(self._path)
        except OSError:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()

    def is_in_place(self) -> bool:
        """Whether its name still leads here: it may have been deleted or replaced."""
        try:
            return self._path.lstat().st_ino == self._inode
        except OSError:
            return False

    def drain(self, limit: int | None = None) -> list[Frame]:
        """The frames in the socket, in the order of sending; all, or about ``limit`` of them."""
        frames: list[Frame] = []
        for _ in range(READ_LIMIT):
            try:
                datagram = self._socket.recv(MAX_DATAGRAM)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    logger.warning("reading from the socket failed: %s", error)
                break
            if not datagram:  # empty, or shut down
                break
            try:
                for frame in _decoder.decode(datagram):
                    if frame.name.endswith(self._names_end):
                        frames.append(frame)  # noqa: PERF401 - of a few frames, a list costs more
            except ValueError as error:  # msgspec's
                logger.error("%d bytes that are not frames were dropped: %s", len(datagram), error)
            if limit is not None and len(frames) >= limit:
                break
        return frames

    def close(self) -> list[Frame]:
        """Removes the name, and returns the frames sent until then.  No more can arrive later.

        `abandon` closes the descriptor.
        """
        with suppress(OSError):  # macOS does not support it
            self._socket.shutdown(socket.SHUT_RD)
        frames = self.drain()
        if self.is_in_place():
            with suppress(OSError):  # just deleted, or owned by another user
                self._path.unlink()
        return frames

    def abandon(self) -> None:
        """Closes the descriptor."""
        self._socket.close()


class Peer:
    """A process that listens, and the last datagrams to it that may be unread."""

    def __init__(self, path: str) -> None:
        self.token = Path(path).name.removesuffix(FRAMES)
        self._socket = _socket()
        self._datagrams: deque[int] = deque(maxlen=QUEUE)
        #: Whether it has left its queue full for some time.
        self.stands_still = False
        self._holders = 0
        self._is_closed = False
        try:
            with _address(path) as address:
                self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def send(self, frames: list[Frame], number: int) -> None:
        """Sends them, in the sender's datagram with this number.  Raises ``OSError``."""
        self._socket.send(_encoder.encode(frames))
        self._datagrams.append(number)

    def read_up_to(self, last: int) -> int:
        """Up to which datagram it has certainly read; ``last`` is the number of the newest."""
        with suppress(OSError, ValueError):  # the socket is closed: no datagram counts as unread
            if ioctl(self._socket.fileno(), TIOCOUTQ, b"\0\0\0\0") == b"\0\0\0\0":
                return last
            # Its queue has room for no more than these.
            return self._datagrams[0] - 1 if len(self._datagrams) == QUEUE else 0
        return last

    @property
    def fd(self) -> int:
        """The descriptor of the socket, for waiting until there is room."""
        return self._socket.fileno()

    def hold(self) -> None:
        """Keeps the socket open until `let_go`."""
        self._holders += 1

    def let_go(self) -> None:
        """Ends one `hold`."""
        self._holders -= 1
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Closes the socket, when nobody holds it any more."""
        self._is_closed = True
        if not self._holders:
            self._socket.close()

    def abandon(self) -> None:
        """Closes the socket at once."""
        self._socket.close()


def connect(path: str) -> Peer | None:
    """The process whose socket is there, if it is of this user."""
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
