"""One channel's messages in memory, and the coroutines that wait for them.

Its methods are called under the lock of `mailboxes.Mailboxes`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from channels_lite.delivery.capacity import OVERHEAD, Limit
from channels_lite.loops import running_loop, settle
from channels_lite.store.sql import Claimed

__all__ = ["Mailbox", "Message", "fail"]


# Types whose values cannot change.
FLAT = frozenset({str, int, float, bool, bytes, type(None)})


class Message(msgspec.Struct, eq=False, gc=False):
    """A message in memory.  The members of a group in this process share one object."""

    #: The id of its row; 0: it had no row, and ``created_at`` tells its age.
    id: int
    data: bytes
    expires_at: float
    created_at: float = 0.0
    #: For further members of a group: the decoded message, if a copy without its values is enough.
    decoded: dict[str, Any] | None = None
    was_decoded: bool = False

    def decode(self, decode: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
        """A new object for each receiver.  Raises what ``decode`` raises."""
        if self.decoded is not None:
            return self.decoded.copy()
        message = decode(self.data)
        if self.was_decoded and FLAT.issuperset(map(type, message.values())):
            self.decoded = message.copy()
        self.was_decoded = True
        return message


class Mailbox:
    """The messages of a channel, oldest first, and the coroutines that wait, longest first.

    A coroutine waits for a future.  When it is called, its message is in its hand.  Until it has
    its turn, the message can be taken back: then it checks the mailbox as if it came just now.
    """

    __slots__ = (
        "_amount",
        "_is_bytes",
        "_load",
        "_share",
        "claimed",
        "is_full",
        "is_marked",
        "is_served",
        "messages",
        "receivers",
    )

    def __init__(self, limit: Limit | None) -> None:
        self._amount = math.inf if limit is None else limit.amount
        self._share = 0 if limit is None else limit.share
        self._is_bytes = limit is not None and limit.is_bytes
        #: The sum of what the messages count.
        self._load = 0
        #: Without those in hands.  Most mailboxes never have any: a coroutine waits.
        self.messages: deque[Message] | tuple[()] = ()
        #: With the message in the hand of each.
        self.receivers: dict[asyncio.Future[None], Message | None] = {}
        #: The original claimed rows, for requeueing; only on plain channels.
        self.claimed: dict[int, Claimed] = {}
        #: Whether its capacity is used up.
        self.is_full = False
        #: Whether a coroutine receives here, now or between two messages.
        self.is_served = False
        #: Whether senders are told that it is full.
        self.is_marked = False

    @property
    def is_open_again(self) -> bool:
        """Whether enough of its capacity is free to accept messages again."""
        return self._load <= self._amount - self._share

    @property
    def has_messages(self) -> bool:
        """Whether it has any, or a receiver has one in its hand."""
        return bool(self.messages) or any(self.receivers.values())

    def add(self, message: Message, running: asyncio.AbstractEventLoop | None) -> None:
        """Gives a message to a receiver, or puts it at the end.  ``running`` is our loop."""
        if not self.messages:
            if self.receivers and self._hand(message, running):
                return
            self.messages = deque()
        self.messages.append(message)
        self._count(message, 1)
        if self.receivers:
            self.call(running)

    def _count(self, message: Message, sign: int) -> None:
        self._load += sign * (len(message.data) + OVERHEAD if self._is_bytes else 1)
        self.is_full = self._load >= self._amount

    def pop(self) -> Message:
        """Takes the oldest message out."""
        message = self._shift()
        if self.claimed:
            self.claimed.pop(message.id, None)
        return message

    def _shift(self) -> Message:
        message = self.messages.popleft()  # type: ignore[union-attr]
        if not self.messages:
            self.messages = ()
        self._count(message, -1)
        return message

    def put_first(self, message: Message) -> None:
        """Moves one of its messages to the front."""
        self.messages.remove(message)  # type: ignore[union-attr]
        self.messages.appendleft(message)  # type: ignore[union-attr]

    def enter(self, loop: asyncio.AbstractEventLoop, *, keeps_place: bool) -> asyncio.Future[None]:
        """Lets the running coroutine, on ``loop``, wait; first in line with ``keeps_place``."""
        future = loop.create_future()
        self.is_served = True
        if keeps_place:
            self.receivers = {future: None, **self.receivers}
        else:
            self.receivers[future] = None
        if self.messages:  # one has arrived since it checked
            self.call(loop)
        return future

    def leave(self, future: asyncio.Future[None]) -> None:
        """Ends the waiting of a cancelled receiver.  `call` another one for its message."""
        self.take_back()
        del self.receivers[future]

    def take_back(self) -> None:
        """Puts the messages in hands to the front.  Their receivers will check the mailbox."""
        for future, message in reversed(self.receivers.items()):
            if message is not None:
                self.receivers[future] = None
                self.messages = self.messages or deque()
                self.messages.appendleft(message)
                self._count(message, 1)

    def call(self, running: asyncio.AbstractEventLoop | None) -> None:
        """Gives messages, oldest first, to the receivers that wait for one.

        Not only one: a receiver may be called for the second time before its turn.
        """
        while self.messages and self._hand(self.messages[0], running):
            self._shift()

    def _hand(self, message: Message, running: asyncio.AbstractEventLoop | None) -> bool:
        """Gives ``message`` to the receiver that has waited longest, if there is one.

        A receiver on a stopped loop is called only if there is no other: it may never continue.
        """
        standing = []
        for future, held in self.receivers.items():
            if held is not None or future.done():
                continue
            loop = future.get_loop()
            if loop is running:
                self.receivers[future] = message
                future.set_result(None)
                return True
            if not loop.is_running():
                standing.append(future)
            elif self._call(future, message):
                return True
        return any(self._call(future, message) for future in standing)

    def _call(self, future: asyncio.Future[None], message: Message) -> bool:
        try:
            future.get_loop().call_soon_threadsafe(settle, future)
        except RuntimeError:
            return False  # closed
        self.receivers[future] = message
        return True

    def forget_closed_loops(self) -> None:
        """Drops receivers whose loop was closed.  Their messages go to others."""
        closed = [each for each in self.receivers if each.get_loop().is_closed()]
        if not closed:
            return
        self.take_back()
        for future in closed:
            del self.receivers[future]
        self.call(running_loop())


def fail(future: asyncio.Future[None], error: Exception) -> None:
    """Raises ``error`` in the waiting coroutine.  ``RuntimeError`` if its loop is closed."""
    future.get_loop().call_soon_threadsafe(_raise, future, error)


def _raise(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
