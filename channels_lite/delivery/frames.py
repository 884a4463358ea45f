"""HAND OVER: a message to a process that listens needs no row.

A message goes as a datagram if possible (`wake.datagrams`).  Every other message becomes a row:
messages to plain channels, messages of a transaction, messages that are too large or find the
socket full, and messages to a process that polls.

A sender's messages go as rows or as frames, and must not overtake each other.  So a frame names the
last row that its sender has written for the same process, and is not delivered before that row.  In
turn, a row is delivered only after the frames that had arrived when it was read, and that name an
earlier one.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection

from channels_lite.clock import Clock
from channels_lite.delivery.backpressure import Backpressure
from channels_lite.delivery.capacity import Limit
from channels_lite.names import FRAMES, mark_path, token_of
from channels_lite.store.sql import Envelope
from channels_lite.wake.datagrams import Frame, Peer, connect

__all__ = ["FrameSender"]

# The maximum size of a frame in addition to its data, name and recipients.
OVERHEAD = 64
# The maximum number of connected processes, and of names whose last row it remembers.
MAX_PEERS = 256
MAX_NAMES = 10_000


class FrameSender:
    """Sockets to processes that listen, and the last row written for each name.

    Thread: any.  One lock guards both.
    """

    def __init__(
        self,
        token: str,
        sidecar: Callable[[], str],
        limit: Callable[[str], Limit | None],
        clock: Clock,
    ) -> None:
        #: This process's token: messages to itself go straight into the mailbox, or as rows.
        self._token = token
        self._sidecar = sidecar
        self._clock = clock
        self._lock = threading.Lock()
        #: By token; and the tokens as a list, to choose one at random.
        self._peers: dict[str, Peer] = {}
        self._tokens: list[str] = []
        #: The same sockets by non-local name.
        self._by_name: dict[str, Peer] = {}
        #: Those written last are at the end.
        self._last_rows: OrderedDict[str, int] = OrderedDict()
        #: The number of the last datagram to any process.
        self._last = 0
        #: Counts what is on its way, as frames and as rows.
        self.backpressure = Backpressure(limit, self._has_mark, self._read_up_to, self._lock)

    def put_row(self, name: str, row: int) -> None:
        """Remembers a committed row: later frames to ``name`` come after it."""
        with self._lock:  # two loops may report their commits in another order
            self._last_rows[name] = max(row, self._last_rows.get(name, 0))
            self._last_rows.move_to_end(name)
            if len(self._last_rows) > MAX_NAMES:
                self._last_rows.popitem(last=False)

    def last_row(self, name: str) -> int:
        """The id of the last row that this process has written for ``name``; 0: none."""
        return self._last_rows.get(name, 0)

    def forget_rows(self) -> None:
        """Ids have started again."""
        with self._lock:
            self._last_rows.clear()
            self.backpressure.forget()

    def send(self, envelopes: Collection[Envelope]) -> set[str]:
        """Hands over what it can, one datagram for each process, and marks these as settled.

        Marks envelopes to full channels as refused.  Returns the tokens of processes whose sockets
        are full, but may soon have room.  The remaining envelopes must become rows.  Never waits or
        raises.
        """
        full = set()
        with self._lock:
            by_peer: dict[Peer, list[Envelope]] = {}
            for envelope in envelopes:
                peer = self._by_name.get(envelope.name) or self._find(envelope.name)
                if peer is None:
                    continue
                if peer in by_peer:
                    by_peer[peer].append(envelope)
                else:
                    by_peer[peer] = [envelope]
            for peer, those in by_peer.items():
                if not self._send_to(peer, those):
                    full.add(peer.token)
        return full

    def _find(self, name: str) -> Peer | None:
        """The process that receives on this non-local name, if it listens and is another one."""
        if "!" not in name:
            return None
        token = token_of(name)
        if token == self._token:
            return None
        peer = self._peers.get(token) or self._connect(token)
        if peer is not None:
            if len(self._by_name) >= MAX_NAMES:
                self._by_name.clear()
            self._by_name[name] = peer
        return peer

    def _send_to(self, peer: Peer, envelopes: list[Envelope]) -> bool:
        """False: the socket is full, and may soon have room for the remaining envelopes."""
        number = self._last + 1
        frames, admitted = self._admit(peer, envelopes, number)
        if not frames:
            return True
        try:
            peer.send(frames, number)
        except OSError as error:
            self.backpressure.withdraw(admitted)
            if error.errno == errno.EAGAIN:
                return peer.stands_still
            if error.errno not in (errno.ENOBUFS, errno.EMSGSIZE, errno.ETOOMANYREFS):
                self._forget(peer.token)  # the process is gone
            return True
        self._last = number
        peer.stands_still = False
        for envelope in admitted:
            envelope.is_settled = True
        return True

    def _admit(
        self, peer: Peer, envelopes: list[Envelope], number: int
    ) -> tuple[list[Frame], list[Envelope]]:
        """The frames of this one datagram, and their envelopes.  Marks the refused ones."""
        frames: list[Frame] = []
        admitted: list[Envelope] = []
        size = 0
        for envelope in envelopes:
            name, recipients, data = envelope.name, envelope.recipients, envelope.data
            size += len(data) + len(recipients) + len(name) + OVERHEAD
            if size > peer.largest:
                break
            if envelope.channel:
                is_admitted = self.backpressure.admit(envelope, number)
                if is_admitted is None:
                    break  # later messages must not overtake it
                if not is_admitted:
                    envelope.is_settled = envelope.is_refused = True
                    continue
            admitted.append(envelope)
            frames.append(
                Frame(
                    name,
                    recipients,
                    data,
                    envelope.created_at,
                    envelope.expires_at,
                    self._last_rows.get(name, 0),
                    self._clock.generation,
                    not envelope.channel,
                )
            )
        return frames, admitted

    def hold(self, token: str) -> Peer | None:
        """The socket to a process, kept open until `let_go`; None if there is none."""
        with self._lock:
            peer = self._peers.get(token)
            if peer is not None:
                peer.hold()
            return peer

    def let_go(self, peer: Peer) -> None:
        """Ends one `hold`."""
        with self._lock:
            peer.let_go()

    def give_up(self, token: str) -> None:
        """Notes that a process stands still: nobody waits for it until it has room."""
        with self._lock:
            peer = self._peers.get(token)
            if peer is not None:
                peer.stands_still = True

    def _connect(self, token: str) -> Peer | None:
        peer = connect(f"{self._sidecar()}/{token}{FRAMES}")
        if peer is None:
            return None
        if len(self._peers) >= MAX_PEERS:
            # At random: if a sender uses one process more than fits, in turns, the least recently
            # used one would always be the next one needed.
            self._forget(random.choice(self._tokens))  # noqa: S311 - no secret
        self._peers[token] = peer
        self._tokens.append(token)
        return peer

    def _forget(self, token: str) -> None:
        self._peers.pop(token).close()
        self._tokens.remove(token)
        self._by_name.clear()

    def forget_stale(self) -> None:
        """Closes the sockets to processes that are gone.  Call it regularly."""
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
        """Closes the sockets.  They are opened again when needed."""
        with self._lock:
            for token in list(self._tokens):
                self._forget(token)

    def abandon(self) -> None:
        """Like `close`, in a forked child, where a thread of the parent may hold the lock."""
        for peer in self._peers.values():
            peer.abandon()
