"""HAND OVER, the transport: messages to a process as datagrams, without a row.

Facts: only the process that made a process-local channel may receive on it, so a row for that
channel never outlives the process.  A datagram costs a tenth of a commit.
So: a process that listens binds a datagram socket beside its FIFO, ``SIDECAR/TOKEN.frames``.  It
does not use the FIFO itself, which any process of the user could read empty.

What is too large for a datagram is in a memory file (on Linux), whose descriptor the datagram
carries: the data of one frame, or, of several, all frames.  The kernel frees it when nobody holds
it, so a killed process leaves nothing behind.

`delivery.frames` decides which messages go this way, and their order with rows.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import msgspec

from channels_lite import process
from channels_lite.names import FRAMES

try:
    import fcntl
    from termios import TIOCOUTQ
except ImportError:  # Windows, which has no such sockets in Python either
    fcntl = None  # type: ignore[assignment]

__all__ = ["LARGEST", "MAX_DATAGRAM", "Frame", "FrameReceiver", "Peer", "connect"]

logger = logging.getLogger(__name__)

#: The maximum size of a datagram.  The kernel holds about 200 kB of unread ones from each sender.
MAX_DATAGRAM = 65536
HAS_FILES = hasattr(os, "memfd_create")
#: The maximum size of what is handed over together, and of the memory files that a process has not
#: read yet, from each sender.
LARGEST = 16 * 1024 * 1024 if HAS_FILES else MAX_DATAGRAM
# How a datagram with a memory file begins, and no MessagePack.  The frame without its data follows,
# or nothing, if the file contains all frames.
IN_FILE = b"\xc1"
# In the mode of the socket of a process that reads memory files: 0.5.0 does not.
READS_FILES = stat.S_ISVTX if HAS_FILES else 0
FILE = "channels-lite"
# What receives one descriptor.
ANCILLARY = (socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC) if HAS_FILES else ()
# Bytes that a socket's address (sun_path) may have on every system.
MAX_ADDRESS = 100


def _queue() -> int:
    """The maximum number of datagrams in a socket's queue, and so of one sender's unread ones.

    11 on most Linux systems.
    """
    try:
        return int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
    except (OSError, ValueError):  # another system: limited by bytes, never below about a hundred
        return 4096


QUEUE = _queue()
# Datagrams read at once: all that were in the queue, because none may be overtaken by a row.
READ_LIMIT = max(1024, QUEUE)


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


def _write_file(data: bytes) -> int:
    """The descriptor of a memory file with this content.  Raises ``OSError``: ENOBUFS."""
    try:
        descriptor = os.memfd_create(FILE, os.MFD_CLOEXEC)
    except OSError as error:  # forbidden, or no free descriptor
        raise OSError(errno.ENOBUFS, f"no memory file: {error}") from error
    try:
        if os.write(descriptor, data) == len(data):
            return descriptor
    except OSError:
        pass  # no memory
    os.close(descriptor)
    raise OSError(errno.ENOBUFS, "no memory for a file")


def _read_file(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """The content of the memory file that came with a datagram.  Raises ``OSError``."""
    descriptor = int.from_bytes(ancillary[0][2], sys.byteorder)
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)  # fails for other files, which might block
        # Asking for more than there is would take new memory from the kernel each time.
        size = min(os.fstat(descriptor).st_size, LARGEST + MAX_DATAGRAM)
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def _close_files() -> None:
    """In a forked child: closes the files that other threads of the parent were at."""
    for path in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # the directory itself is gone
            if str(path.readlink()) == f"/memfd:{FILE} (deleted)":
                os.close(int(path.name))


if HAS_FILES:
    process.call_in_child(_close_files)


def _frames_in_file(datagram: bytes, content: bytes) -> list[Frame]:
    """The frames of a datagram and its memory file.  Raises ``ValueError``."""
    if not datagram.startswith(IN_FILE):
        raise ValueError("it carried a file")
    if datagram == IN_FILE:
        return _decoder.decode(content)
    [frame] = _decoder.decode(datagram[1:])
    frame.data = content
    return [frame]


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
            mode, self._inode = making.lstat()[:2]
            making.chmod(stat.S_IMODE(mode) | READS_FILES)
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
                datagram, ancillary, _, _ = self._socket.recvmsg(MAX_DATAGRAM, *ANCILLARY)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    logger.warning("reading from the socket failed: %s", error)
                break
            if not datagram and not ancillary:  # a stranger's, or the socket is shut down
                continue
            try:
                if ancillary:
                    came = _frames_in_file(datagram, _read_file(ancillary))
                else:
                    came = _decoder.decode(datagram)
                for frame in came:
                    if frame.name.endswith(self._names_end):
                        frames.append(frame)  # noqa: PERF401 - of a few frames, a list costs more
            except (ValueError, OSError) as error:  # msgspec's, or of a file
                is_cut = datagram.startswith(IN_FILE) and not ancillary
                why = "this process has no free file descriptor" if is_cut else error
                logger.error("%d bytes that are not frames were dropped: %s", len(datagram), why)
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


#: Bytes; the least of all processors, so that no step is missed.
CACHE_LINE = 32


def _unread_memory(sender: socket.socket) -> int:
    """The kernel's memory for what ``sender`` has sent and nobody has read, in bytes."""
    return int.from_bytes(fcntl.ioctl(sender.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)


def _least_memory(size: int) -> int:
    """The kernel uses no less memory for a datagram of ``size`` bytes."""
    # It grows with the size, in steps, each of which begins behind a multiple of a cache line.
    try:
        return max(size, _memory_of(size - (size - 1) % CACHE_LINE))
    except OSError:  # no free descriptor
        return size


@cache
def _memory_of(size: int) -> int:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        sender.send(bytes(size))
        return _unread_memory(sender)


class Peer:
    """A process that listens, and the last datagrams to it that may be unread."""

    def __init__(self, path: str, *, largest: int = MAX_DATAGRAM) -> None:
        self.token = Path(path).name.removesuffix(FRAMES)
        #: The maximum size of what is handed over together.
        self.largest = largest
        self._socket = _socket()
        #: With the size of each.
        self._datagrams: deque[tuple[int, int]] = deque(maxlen=QUEUE)
        #: Bytes in memory files that may be unread, and the last datagram with one.
        self._in_files = self._last_file = 0
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
        if len(frames[0].data) > MAX_DATAGRAM and len(frames) == 1:
            # Without copies of the data, which cost as much as the file.
            header = _encoder.encode([msgspec.structs.replace(frames[0], data=b"")])
            if len(header) < MAX_DATAGRAM:
                self._send_file(IN_FILE + header, frames[0].data, number)
                return
        encoded = _encoder.encode(frames)
        if len(encoded) > MAX_DATAGRAM:
            self._send_file(IN_FILE, encoded, number)
            return
        self._socket.send(encoded)
        self._datagrams.append((number, len(encoded)))

    def _send_file(self, datagram: bytes, content: bytes, number: int) -> None:
        if self._in_files and self.read_up_to(number - 1) >= self._last_file:
            self._in_files = 0
        if self._in_files + len(content) > self.largest + MAX_DATAGRAM:
            raise OSError(errno.ENOBUFS, "too much is unread")
        descriptor = _write_file(content)
        try:
            socket.send_fds(self._socket, [datagram], [descriptor])
        finally:
            os.close(descriptor)
        self._datagrams.append((number, len(datagram)))
        self._in_files += len(content)
        self._last_file = number

    def read_up_to(self, last: int) -> int:
        """Up to which datagram it has certainly read; ``last`` is the number of the newest."""
        try:
            unread = _unread_memory(self._socket)
        except (OSError, ValueError):  # the socket is closed: no datagram counts as unread
            return last
        if not unread:
            return last
        # The unread ones are the newest, and the queue has room for no more than these.
        for number, size in reversed(self._datagrams):
            unread -= _least_memory(size)
            if unread < 0:
                return number
        return self._datagrams[0][0] - 1 if len(self._datagrams) == QUEUE else 0

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
        return Peer(path, largest=LARGEST if found.st_mode & READS_FILES else MAX_DATAGRAM)
    except OSError as error:
        if isinstance(error, ConnectionRefusedError):
            with suppress(OSError):  # it was killed
                Path(path).unlink()
        return None
