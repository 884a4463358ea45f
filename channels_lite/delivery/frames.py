"""HAND OVER: a message to a process that listens needs no row.

Facts: only the process that made a process-local channel may receive on it, so a row for that
channel never outlives the process; and a datagram costs a tenth of a commit.
So: a process that listens binds a datagram socket beside its FIFO, ``SIDECAR/TOKEN.frames``.  What
can be sent there is sent there; everything else becomes a row: messages to plain channels, those
of a transaction, those too large, those for which the socket is full, and those to a process that
polls.  Not the FIFO itself: any process of the user could read it empty.

Rows and frames are two ways, and a sender's messages must not overtake each other.  So a frame
names the last row that its sender has put for the same process: it is not delivered before that.
In turn rows are delivered only after the frames that were there when they were read.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from channels_lite.clock import Clock
from channels_lite.delivery.backpressure import Backpressure
from channels_lite.delivery.capacity import Limit
from channels_lite.names import FRAMES, mark_path, token_of
from channels_lite.store.sql import Post

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows, which has no such sockets in Python either
    ioctl = None  # type: ignore[assignment]

__all__ = ["Frame", "FrameReceiver", "FrameSender"]

logger = logging.getLogger(__name__)

# Bytes of a datagram at most.  The kernel takes some 200 kB of unread ones from each sender.
MAX_DATAGRAM = 65536
# Bytes of a frame beside its data, name and recipients, at most.
OVERHEAD = 64
# Datagrams read at once.  Linux queues 11 by default, or net.unix.max_dgram_qlen + 1.
READ_LIMIT = 1024
# Processes that a sender keeps a socket to, and names whose last row it remembers.
MAX_PEERS = 256
MAX_NAMES = 10_000
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

    #: Their non-local name, and the local parts behind it, by commas.
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
        if self.is_in_place():
            with suppress(OSError):  # gone just now, or another user's
                self._path.unlink()
        return frames

    def abandon(self) -> None:
        """Closes the descriptor."""
        self._socket.close()


class _Peer:
    """A process that listens, and the last datagrams that it may not have read yet."""

    def __init__(self, path: str) -> None:
        self.socket = _socket()
        self.datagrams: deque[int] = deque(maxlen=QUEUE)
        try:
            with _address(path) as address:
                self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise

    def read_up_to(self, last: int) -> int:
        """The number of a datagram that it has read, with all before; ``last`` is the newest."""
        with suppress(OSError, ValueError):  # the socket was closed: nothing is known to be unread
            if ioctl(self.socket.fileno(), TIOCOUTQ, b"\0\0\0\0") == b"\0\0\0\0":
                return last
            # No more than these find a place in its queue.
            return self.datagrams[0] - 1 if len(self.datagrams) == QUEUE else 0
        return last


class FrameSender:
    """Sockets to the processes that listen, and the last row put for each name.

    Thread: any.  One lock guards both.
    """

    def __init__(
        self,
        token: str,
        sidecar: Callable[[], str],
        limit: Callable[[str], Limit | None],
        clock: Clock,
    ) -> None:
        #: This process's own: what it sends itself goes straight into the mailbox, or by rows.
        self._token = token
        self._sidecar = sidecar
        self._clock = clock
        self._lock = threading.Lock()
        #: By token; and the tokens once more, to choose one by chance.
        self._peers: dict[str, _Peer] = {}
        self._tokens: list[str] = []
        self._last_rows: dict[str, int] = {}
        #: The number of the last datagram, whomever it was for.
        self._last = 0
        #: What is on its way, by frames and by rows.
        self.backpressure = Backpressure(limit, self._has_mark, self._read_up_to, self._lock)

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
        with self._lock:  # `put_row` takes it out for a moment
            return self._last_rows.get(name, 0)

    def forget_rows(self) -> None:
        """Ids have begun again."""
        with self._lock:
            self._last_rows.clear()
            self.backpressure.forget()

    def send(self, posts: Iterable[Post]) -> None:
        """Hands over what it can, and marks it so; those to one process in one datagram.

        Those to channels that are known to be full it marks as refused.  Never waits, never raises:
        what remains is for the table.
        """
        by_token: dict[str, list[Post]] = {}
        for post in posts:
            if post.name.endswith("!"):
                by_token.setdefault(token_of(post.name), []).append(post)
        by_token.pop(self._token, None)
        with self._lock:
            for token, those in by_token.items():
                self._send_to(token, those)

    def _send_to(self, token: str, posts: list[Post]) -> None:
        peer = self._peers.get(token) or self._connect(token)
        if peer is None:
            return
        frames: list[Frame] = []
        sent: list[Post] = []
        size = 0
        number = self._last + 1
        last_rows, generation = self._last_rows, self._clock.generation
        for post in posts:
            size += len(post.data) + len(post.recipients) + len(post.name) + OVERHEAD
            if size > MAX_DATAGRAM:
                break
            if post.channel:
                is_admitted = self.backpressure.admit(post, number)
                if is_admitted is None:
                    break  # what comes after it must not overtake it
                if not is_admitted:
                    post.is_settled = post.is_refused = True
                    continue
            after = last_rows.get(post.name, 0)
            times = post.created_at, post.expires_at
            is_group = not post.channel
            frames.append(
                Frame(post.name, post.recipients, post.data, *times, after, generation, is_group)
            )
            sent.append(post)
        if not frames:
            return
        if self._transmit(token, peer, frames):
            for post in sent:
                post.is_settled = True
        else:
            self.backpressure.withdraw(sent)

    def _transmit(self, token: str, peer: _Peer, frames: list[Frame]) -> bool:
        try:
            peer.socket.send(_encoder.encode(frames))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE):
                self._forget(token)  # it has gone
            return False
        self._last += 1
        peer.datagrams.append(self._last)
        return True

    def _connect(self, token: str) -> _Peer | None:
        path = f"{self._sidecar()}/{token}{FRAMES}"
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
        if len(self._peers) >= MAX_PEERS:
            # By chance: with one more than there is room for, sent to in turns, the one that was
            # used longest ago is the one that comes next.
            self._forget(random.choice(self._tokens))  # noqa: S311 - no secret
        self._peers[token] = peer
        self._tokens.append(token)
        return peer

    def _forget(self, token: str) -> None:
        self._peers.pop(token).socket.close()
        self._tokens.remove(token)

    def forget_the_dead(self) -> None:
        """Closes the sockets to processes that are gone.  Call now and then."""
        sidecar = self._sidecar()
        with self._lock:
            for token in list(self._tokens):
                if not os.path.lexists(f"{sidecar}/{token}{FRAMES}"):
                    self._forget(token)

    def _has_mark(self, channel: str) -> bool:
        return os.access(mark_path(self._sidecar(), token_of(channel), channel), os.F_OK)

    def _read_up_to(self, token: str) -> int:
        peer = self._peers.get(token)
        return self._last if peer is None else peer.read_up_to(self._last)

    def close(self) -> None:
        """Closes the sockets; they are opened again when they are needed."""
        with self._lock:
            for token in list(self._tokens):
                self._forget(token)

    def abandon(self) -> None:
        """The same in a forked child, where a thread that is not here may hold the lock."""
        for peer in self._peers.values():
            peer.socket.close()
