"""HAND OVER: a message to a process that listens needs no row.

Facts: only the process that made a process-local channel may receive on it, so a row for that
channel never outlives the process; and a datagram costs a tenth of a commit.
So: a process that listens binds a datagram socket beside its FIFO, ``SIDECAR/TOKEN.frames``.  What
can be sent there is sent there; everything else becomes a row: messages to plain channels, those
of a transaction, those too large, those for which the socket or the channel is full, and those to
a process that polls.  Not the FIFO itself: any process of the user could read it empty.

Rows and frames are two ways, and a sender's messages must not overtake each other.  So a frame
names the last row that its sender has put for the same process: it is not delivered before that.
In turn rows are delivered only after the frames that were there when they were read.

A process whose mailboxes are full takes the socket's name away, which senders look for now and
then, and so sends them to the table, where capacity is counted.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from channels_lite.names import token_of
from channels_lite.store.sql import Post

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows, which has no such sockets in Python either
    ioctl = None  # type: ignore[assignment]

__all__ = ["SUFFIX", "Frame", "FrameReceiver", "FrameSender"]

logger = logging.getLogger(__name__)

SUFFIX = ".frames"
# Bytes of a datagram at most.  The kernel takes some 200 kB of unread ones from each sender.
MAX_DATAGRAM = 65536
# Bytes of a frame beside its data, name and recipients, at most.
OVERHEAD = 64
# Datagrams read at once.  Linux queues 11 by default, or net.unix.max_dgram_qlen + 1.
READ_LIMIT = 1024
# Processes that a sender keeps a socket to, and names whose last row it remembers.
MAX_PEERS = 256
MAX_NAMES = 10_000
# Looks for a process's name (20 us when it comes once in a while) for each capacity's worth sent.
NAME_SHARE = 4
# Bytes of a socket's address (sun_path) on every system.
MAX_ADDRESS = 100


class Frame(msgspec.Struct, array_like=True):
    """A message to channels of one process."""

    #: Their non-local name, and the local parts behind it, by commas.
    name: str
    recipients: str
    data: bytes
    created_at: float
    expires_at: float
    #: The id of the row that it comes after; 0: of none.
    after: int


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
        self._path = sidecar / f"{token}{SUFFIX}"
        self._hidden = sidecar / f".{token}{SUFFIX}"
        self._socket = _socket()
        try:
            with _address(str(self._hidden)) as address:
                self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()
        self._is_open = False

    def open(self, *, is_open: bool) -> None:
        """Lets senders find it, or sends them to the table."""
        if is_open != self._is_open:
            self._is_open = is_open
            old, new = (self._hidden, self._path) if is_open else (self._path, self._hidden)
            with suppress(OSError):  # somebody has deleted it: then the table it is
                old.rename(new)

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
                    logger.warning("reading what was handed over failed: %s", error)
                break
            if not datagram:  # empty, or shut down
                break
            try:
                found = _decoder.decode(datagram)
                frames += [frame for frame in found if frame.name.endswith(self._names_end)]
            except ValueError as error:  # msgspec's
                logger.error("%d bytes that are no frames were dropped: %s", len(datagram), error)
        return frames

    def close(self) -> list[Frame]:
        """Takes the name away, and returns what was sent until then: nothing can come later.

        `abandon` closes the descriptor.
        """
        with suppress(OSError):  # macOS knows no such thing
            self._socket.shutdown(socket.SHUT_RD)
        frames = self.drain()
        for name in (self._path, self._hidden):
            with suppress(OSError):  # gone already, or another user's now
                name.unlink()
        return frames

    def abandon(self) -> None:
        """Closes the descriptor."""
        self._socket.close()


class _Peer:
    """A process that listens."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = _socket()
        #: Messages sent since it was last seen to have read everything, and since its name was
        #: last looked for.
        self.unread = self.unseen = 0
        try:
            with _address(path) as address:
                self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise

    def has_room(self, limit: int | None) -> bool:
        """Whether channels with room for ``limit`` messages each can take another one.

        Not more than that while it has not read what we sent; and its name, which it takes away
        when one of them is full, is looked for a few times until then.
        """
        if limit is None:
            return True
        if self.unseen * NAME_SHARE >= limit:
            if not os.access(self.path, os.F_OK):
                return False
            self.unseen = 0
        if self.unread >= limit:
            with suppress(OSError):
                if ioctl(self.socket.fileno(), TIOCOUTQ, b"\0\0\0\0") == b"\0\0\0\0":
                    self.unread = 0
            return self.unread < limit
        return True


class FrameSender:
    """Sockets to the processes that listen.  Thread: any."""

    def __init__(
        self, token: str, sidecar: Callable[[], str], limit: Callable[[str], int | None]
    ) -> None:
        #: This process's own: what it sends itself goes straight into the inbox, or by rows.
        self._token = token
        self._sidecar = sidecar
        self._limit = limit
        self._lock = threading.Lock()
        self._peers: dict[str, _Peer] = {}
        self._last_rows: dict[str, int] = {}

    def put_row(self, name: str, row: int) -> None:
        """Takes note of a committed row: what is sent to ``name`` from now on comes after it."""
        if name.endswith("!"):
            with self._lock:  # two loops may tell of their commits in the other order
                row = max(row, self._last_rows.pop(name, 0))
                if len(self._last_rows) >= MAX_NAMES:  # the one that was used longest ago
                    del self._last_rows[next(iter(self._last_rows))]
                self._last_rows[name] = row

    def last_row(self, name: str) -> int:
        """The id of the last row that this process has put for ``name``; 0: none."""
        return self._last_rows.get(name, 0)

    def send(self, posts: Iterable[Post]) -> None:
        """Hands over what it can, and marks it so; those to one process in one datagram.

        Never waits, never raises: what remains is for the table.
        """
        sidecar = self._sidecar()
        by_path: dict[str, list[Post]] = {}
        for post in posts:
            token = token_of(post.name)
            if post.name.endswith("!") and token != self._token:
                by_path.setdefault(f"{sidecar}/{token}{SUFFIX}", []).append(post)
        with self._lock:
            for path, those in by_path.items():
                self._send_to(path, those)

    def _send_to(self, path: str, posts: list[Post]) -> None:
        peer = self._peer(path)
        if peer is None:
            return
        frames: list[Frame] = []
        sent: list[Post] = []
        size = 0
        for post in posts:
            size += len(post.data) + len(post.recipients) + len(post.name) + OVERHEAD
            if size > MAX_DATAGRAM or not peer.has_room(self._limit(post.channel)):
                break
            peer.unread += 1
            peer.unseen += 1
            after = self._last_rows.get(post.name, 0)
            times = post.created_at, post.expires_at
            frames.append(Frame(post.name, post.recipients, post.data, *times, after))
            sent.append(post)
        if not frames:
            return
        try:
            peer.socket.send(_encoder.encode(frames))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE):
                self._forget(path)  # it has gone
            return
        for post in sent:
            post.is_handed_over = True

    def _peer(self, path: str) -> _Peer | None:
        peer = self._peers.get(path)
        if peer is not None:
            return peer
        try:
            found = os.lstat(path)
            if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
                return None
            peer = _Peer(path)
        except OSError as error:
            if isinstance(error, ConnectionRefusedError):
                with suppress(OSError):  # it was killed
                    Path(path).unlink()
            return None
        self._forget_the_dead()
        if len(self._peers) >= MAX_PEERS:
            self._forget(next(iter(self._peers)))
        self._peers[path] = peer
        return peer

    def _forget_the_dead(self) -> None:
        for path in list(self._peers):
            folder, name = os.path.split(path)
            if not os.path.lexists(path) and not os.path.lexists(f"{folder}/.{name}"):
                self._forget(path)

    def _forget(self, path: str) -> None:
        self._peers.pop(path).socket.close()

    def close(self) -> None:
        """Closes the sockets; they are opened again when they are needed."""
        with self._lock:
            for path in list(self._peers):
                self._forget(path)

    def abandon(self) -> None:
        """The same in a forked child, where a thread that is not here may hold the lock."""
        for peer in self._peers.values():
            peer.socket.close()
