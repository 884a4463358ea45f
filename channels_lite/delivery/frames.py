"""HAND OVER: a message to a process that listens needs no row.

What can be sent by a datagram is sent so (`wake.datagrams`); everything else becomes a row:
messages to plain channels, those of a transaction, those too large, those for which the socket is
full, and those to a process that polls.

Rows and frames are two ways, and a sender's messages must not overtake each other.  So a frame
names the last row that its sender has put for the same process: it is not delivered before that.
In turn rows are delivered only after the frames that had come when they were read.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import threading
from collections.abc import Callable, Iterable

from channels_lite.clock import Clock
from channels_lite.delivery.backpressure import Backpressure
from channels_lite.delivery.capacity import Limit
from channels_lite.names import FRAMES, mark_path, token_of
from channels_lite.store.sql import Envelope
from channels_lite.wake.datagrams import MAX_DATAGRAM, Frame, Peer, connect

__all__ = ["FrameSender"]

# Bytes of a frame beside its data, name and recipients, at most.
OVERHEAD = 64
# Processes that a sender keeps a socket to, and names whose last row it remembers.
MAX_PEERS = 256
MAX_NAMES = 10_000


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
        self._peers: dict[str, Peer] = {}
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

    def send(self, envelopes: Iterable[Envelope]) -> set[str]:
        """Hands over what it can, and marks it so; those to one process in one datagram.

        Those to channels that are known to be full it marks as refused.  Returns the tokens of
        processes whose sockets are full, and soon may not be; what else remains is for the table.
        Never waits, never raises.
        """
        by_token: dict[str, list[Envelope]] = {}
        for envelope in envelopes:
            if envelope.name.endswith("!"):
                by_token.setdefault(token_of(envelope.name), []).append(envelope)
        by_token.pop(self._token, None)
        full = set()
        with self._lock:
            for token, those in by_token.items():
                if self._send_to(token, those):
                    full.add(token)
        return full

    def _send_to(self, token: str, envelopes: list[Envelope]) -> bool:
        """Whether the process may soon make room for those that remain."""
        peer = self._peers.get(token) or self._connect(token)
        if peer is None:
            return False
        number = self._last + 1
        admitted = self._admit(envelopes, number)
        if not admitted:
            return False
        try:
            peer.send(self._frames(admitted), number)
        except OSError as error:
            self.backpressure.withdraw(admitted)
            if error.errno == errno.EAGAIN:
                return not peer.stands_still
            if error.errno not in (errno.ENOBUFS, errno.EMSGSIZE):
                self._forget(token)  # it has gone
            return False
        self._last = number
        peer.stands_still = False
        for envelope in admitted:
            envelope.is_settled = True
        return False

    def _admit(self, envelopes: list[Envelope], number: int) -> list[Envelope]:
        """Those that go into one datagram, this one.  Marks the refused."""
        admitted: list[Envelope] = []
        size = 0
        for envelope in envelopes:
            size += len(envelope.data) + len(envelope.recipients) + len(envelope.name) + OVERHEAD
            if size > MAX_DATAGRAM:
                break
            if envelope.channel:
                is_admitted = self.backpressure.admit(envelope, number)
                if is_admitted is None:
                    break  # what comes after it must not overtake it
                if not is_admitted:
                    envelope.is_settled = envelope.is_refused = True
                    continue
            admitted.append(envelope)
        return admitted

    def _frames(self, envelopes: list[Envelope]) -> list[Frame]:
        last_rows, generation = self._last_rows, self._clock.generation
        return [
            Frame(
                envelope.name,
                envelope.recipients,
                envelope.data,
                envelope.created_at,
                envelope.expires_at,
                last_rows.get(envelope.name, 0),
                generation,
                not envelope.channel,
            )
            for envelope in envelopes
        ]

    def duplicate(self, token: str) -> socket.socket | None:
        """A second descriptor of the socket to a process, if there is one."""
        with self._lock:
            peer = self._peers.get(token)
            return None if peer is None else peer.duplicate()

    def give_up(self, token: str) -> None:
        """A process has made no room for a while: do not wait for it until it has."""
        with self._lock:
            peer = self._peers.get(token)
            if peer is not None:
                peer.stands_still = True

    def _connect(self, token: str) -> Peer | None:
        peer = connect(f"{self._sidecar()}/{token}{FRAMES}")
        if peer is None:
            return None
        if len(self._peers) >= MAX_PEERS:
            # By chance: with one more than there is room for, sent to in turns, the one that was
            # used longest ago is the one that comes next.
            self._forget(random.choice(self._tokens))  # noqa: S311 - no secret
        self._peers[token] = peer
        self._tokens.append(token)
        return peer

    def _forget(self, token: str) -> None:
        self._peers.pop(token).close()
        self._tokens.remove(token)

    def forget_stale(self) -> None:
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
            peer.close()
