"""RECEIVE: the messages in this process's memory, and the coroutines that wait for them.

Messages arrive as rows that were read, as frames from other processes, and from this process.

A message stays in its mailbox until the receiving coroutine takes it out.  A waiting coroutine is
called for one, which is in its hand until its turn.  So a receiver can be cancelled at any point
without losing a message, and whoever comes first takes the oldest one, from a hand if need be.

A mailbox alone decides whether its channel is full.  A full one misses group messages.  It still
accepts direct messages, because their senders were told that they are on their way.  Senders learn
of a full channel from its mark (`wake.presence`), and stop.

Thread: any.  One lock guards all mailboxes.  No code under it blocks or calls other modules.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress

from channels_lite.delivery.capacity import Limit
from channels_lite.delivery.mailbox import Mailbox, Message, fail
from channels_lite.delivery.stats import Stats
from channels_lite.loops import running_loop
from channels_lite.names import split
from channels_lite.store.sql import FlushMark

__all__ = ["Arrival", "Mailboxes"]

#: A message, the channels that it is for, and whether they are members of a group.
Arrival = tuple[list[str], Message, bool]


class Mailboxes:
    """All mailboxes of a layer in this process."""

    def __init__(self, limit: Callable[[str], Limit | None], stats: Stats) -> None:
        self._limit = limit
        self._stats = stats
        self._lock = threading.Lock()
        self._mailboxes: dict[str, Mailbox] = {}
        #: The mailbox of a channel, to look into without the lock; None: there is none.
        self.get: Callable[[str], Mailbox | None] = self._mailboxes.get
        #: Non-local names, with the number of mailboxes of each.
        self._names: Counter[str] = Counter()
        #: Full channels; and channels whose state has changed since senders were told.
        self.full: set[str] = set()
        self.changed: set[str] = set()
        #: The context of the coroutine that came last.
        self._context: contextvars.Context | None = None
        #: Whether a timer may have to be started, which drops expired messages and notices
        #: flushes.  The sender of a message within this process starts it.
        self.needs_clock = True
        #: Names that the current sweep must still check.
        self._to_sweep: list[str] = []

    # Messages arrive

    def put_all(self, arrivals: Iterable[Arrival], now: float) -> list[str]:
        """Adds messages.  Returns the full members of groups, which miss theirs.

        Direct messages are always added, because their senders were told that they are on their
        way.
        """
        missed: list[str] = []
        running = running_loop()
        mailboxes = self._mailboxes
        with self._lock:
            for channels, message, is_group in arrivals:
                for channel in channels:
                    mailbox = mailboxes.get(channel) or self._mailbox(channel)
                    if mailbox.is_full and self._has_no_room(channel, mailbox, now) and is_group:
                        missed.append(channel)
                        continue
                    mailbox.add(message, running)
                    if mailbox.is_full:
                        self._mark_full(channel, mailbox)
        return missed

    def _add(
        self,
        channel: str,
        mailbox: Mailbox,
        message: Message,
        running: asyncio.AbstractEventLoop | None,
    ) -> None:
        mailbox.add(message, running)
        if mailbox.is_full:
            self._mark_full(channel, mailbox)

    def _has_no_room(self, channel: str, mailbox: Mailbox, now: float) -> bool:
        self._drop_expired(channel, mailbox, now)
        return mailbox.is_full

    def _mark_full(self, channel: str, mailbox: Mailbox) -> None:
        # Plain channels have no mark: see `store.occupancy`.
        if not mailbox.is_marked and "!" in channel:
            mailbox.is_marked = True
            self.full.add(channel)
            self.changed.add(channel)

    def _mailbox(self, channel: str) -> Mailbox:
        mailbox = self._mailboxes[channel] = Mailbox(self._limit(channel))
        self._names[split(channel)[0]] += 1
        self.needs_clock = True  # the last timer may have ended with its loop
        return mailbox

    def _forget(self, channel: str) -> None:
        del self._mailboxes[channel]
        self._names[split(channel)[0]] -= 1

    # Receivers

    def is_served(self, channel: str) -> bool:
        """Whether a coroutine receives there, now or between two messages."""
        mailbox = self.get(channel)
        return mailbox is not None and mailbox.is_served

    def have_receivers(self, channels: Iterable[str]) -> bool:
        """Whether a coroutine that waits on one of them has not had its turn yet."""
        with self._lock:
            mailboxes = (self._mailboxes.get(each) for each in channels)
            return any(mailbox is not None and mailbox.receivers for mailbox in mailboxes)

    def take(self, channel: str, now: float) -> Message | None:
        """Takes the oldest message out of the mailbox, or out of the hand of a receiver."""
        with self._lock:
            mailbox = self._mailboxes.get(channel)
            if mailbox is None:
                return None
            mailbox.take_back()
            while mailbox.messages:
                message = self._pop(channel, mailbox)
                if message.expires_at > now:
                    return message
                self._has_expired(channel, mailbox, message)
            return None

    def take_from(self, channel: str, receiver: asyncio.Future[None]) -> Message | None:
        """Takes the message for which ``receiver`` was called.  None: somebody was faster.

        It was received, even if the loop was busy until it has expired.
        """
        self._lock.acquire()  # half of the cost of "with", here and in `wait`, for each member
        try:
            mailbox = self._mailboxes[channel]
            message = mailbox.receivers.pop(receiver)
            if message is not None and mailbox.claimed:
                del mailbox.claimed[message.id]
            return message
        finally:
            self._lock.release()

    def wait(
        self, channel: str, loop: asyncio.AbstractEventLoop, *, keeps_place: bool = False
    ) -> tuple[asyncio.Future[None], bool]:
        """Lets the running coroutine on ``loop`` wait for ``channel``.

        With ``keeps_place`` it is first in line: it was called, but another one was faster.
        Returns its future, and whether it is the first since the mailbox was created.
        """
        self._lock.acquire()
        try:
            self._context = contextvars.copy_context()
            mailbox = self._mailboxes.get(channel) or self._mailbox(channel)
            is_first = not mailbox.is_served
            return mailbox.enter(loop, keeps_place=keeps_place), is_first
        finally:
            self._lock.release()

    def leave(self, channel: str, receiver: asyncio.Future[None], now: float) -> bool:
        """Removes a cancelled receiver.  Another one is called for its message, if there is one.

        False: its loop was closed, and `sweep` removes it.  Its coroutine then ends when Python
        collects it, possibly within an allocation under the lock, so the lock must not be taken.
        """
        if receiver.get_loop().is_closed():
            return False
        with self._lock:
            mailbox = self._mailboxes[channel]
            mailbox.leave(receiver)
            self._drop_expired(channel, mailbox, now)
            mailbox.call(running_loop())
        return True

    @property
    def is_empty(self) -> bool:
        """Whether no message waits in memory."""
        with self._lock:
            return not any(mailbox.has_messages for mailbox in self._mailboxes.values())

    def loops(self) -> set[asyncio.AbstractEventLoop]:
        """The running loops on which a coroutine waits."""
        with self._lock:
            receivers = [each for mailbox in self._mailboxes.values() for each in mailbox.receivers]
        return {each.get_loop() for each in receivers if each.get_loop().is_running()}

    def context_of_a_receiver(self) -> contextvars.Context | None:
        """The context of the coroutine that came last; None if none waits."""
        with self._lock:
            is_awaited = any(mailbox.receivers for mailbox in self._mailboxes.values())
        return self._context if is_awaited else None

    def fail(self, error: Exception) -> None:
        """Raises ``error`` in every receiver: waiting longer cannot help."""
        with self._lock:
            for mailbox in self._mailboxes.values():
                for receiver in mailbox.receivers:
                    with suppress(RuntimeError):  # its loop is closed
                        fail(receiver, error)

    # Upkeep

    def take_changed(self) -> set[str]:
        """The channels whose changed state senders must be told now."""
        with self._lock:
            changed, self.changed = self.changed, set()
        return changed

    def sweep(self, now: float, most: int) -> bool:
        """Drops expired messages and unused mailboxes of at most ``most`` channels.

        Returns whether there are more; the next call continues with them.
        """
        with self._lock:
            if not self._to_sweep:
                self._to_sweep = list(self._mailboxes)
            running = running_loop()
            for name in self._to_sweep[-most:]:
                mailbox = self._mailboxes.get(name)
                if mailbox is None:
                    continue
                if mailbox.messages:
                    self._drop_expired(name, mailbox, now)
                for receiver in mailbox.receivers:
                    if receiver.get_loop() is not running:  # which is not closed
                        mailbox.forget_closed_loops()
                        break
                if not mailbox.messages and not mailbox.receivers:
                    self._forget(name)
            del self._to_sweep[-most:]
            return bool(self._to_sweep)

    def names(self) -> set[str]:
        """The non-local names of the process-local channels in use."""
        with self._lock:
            self._names = +self._names
            return {name for name in self._names if name.endswith("!")}

    def shift(self, seconds: float) -> None:
        """Shifts the expiry of messages, because their clock has changed."""
        with self._lock:
            shifted = {
                id(message): message
                for mailbox in self._mailboxes.values()
                for message in (*mailbox.messages, *mailbox.receivers.values())
                if message is not None
            }
            for message in shifted.values():
                message.expires_at += seconds
                message.created_at += seconds

    def clear(self) -> None:
        """Drops every message."""
        with self._lock:
            for channel, mailbox in self._mailboxes.items():
                mailbox.take_back()
                while mailbox.messages:
                    self._was_dropped(channel, self._pop(channel, mailbox))

    def _was_dropped(self, channel: str, message: Message) -> None:
        """``message`` was taken out by `clear`."""

    def void(self, flushed: FlushMark) -> None:
        """Drops messages that were sent before the flush."""
        with self._lock:
            for channel, mailbox in self._mailboxes.items():
                mailbox.take_back()
                for message in list(mailbox.messages):
                    if flushed.voids(message.id, message.created_at):
                        mailbox.put_first(message)
                        self._pop(channel, mailbox)

    def _drop_expired(self, channel: str, mailbox: Mailbox, now: float) -> None:
        while mailbox.messages and mailbox.messages[0].expires_at <= now:
            self._has_expired(channel, mailbox, self._pop(channel, mailbox))

    def _has_expired(self, channel: str, mailbox: Mailbox, message: Message) -> None:
        """``message`` was taken out because it has expired."""
        self._stats.expired += 1

    def _pop(self, channel: str, mailbox: Mailbox) -> Message:
        message = mailbox.pop()
        if mailbox.is_marked and mailbox.is_open_again:
            mailbox.is_marked = False
            self.full.discard(channel)
            self.changed.add(channel)
        return message
