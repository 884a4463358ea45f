"""RECEIVE: the messages that are in this process's memory, and who waits for them.

A message stays in its mailbox until the very coroutine that receives it takes it out; a wake-up
only tells a waiting one to come and look.  So a receiver can be cancelled at any point, and there
is no moment at which it would take a message along.

Thread: any; rows come from the thread that read them, receivers are on loops.  One lock guards all,
and nothing that is held under it blocks or calls out.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from channels_lite.store.sql import Claimed, Look, Looked, Release, Row

__all__ = ["Inbox", "Parcel"]


class Parcel:
    """A row in memory; the members of a group that are in this process share one."""

    __slots__ = ("data", "expires_at", "id", "is_parked")

    def __init__(self, id: int, data: bytes, expires_at: float) -> None:  # noqa: A002 - the column's
        self.id = id
        self.data = data
        self.expires_at = expires_at
        #: Its channel was full, so its row stays in the table until it is received.
        self.is_parked = False


@dataclass(eq=False, slots=True)
class Receiver:
    """A coroutine that waits."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    context: contextvars.Context
    #: A message was put in for it, and it is on its way to take it.
    is_called: bool = False


@dataclass(slots=True)
class Mailbox:
    """One channel."""

    limit: int | None
    parcels: deque[Parcel] = field(default_factory=deque)
    receivers: deque[Receiver] = field(default_factory=deque)
    #: Claimed rows as they were, for giving back; plain channels only.
    claimed: dict[int, Claimed] = field(default_factory=dict)


class Inbox:
    """All mailboxes of a layer in this process."""

    def __init__(self, capacity: Callable[[str], int | None]) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._mailboxes: dict[str, Mailbox] = {}
        #: Those of plain channels, once more: a look asks for each, and there are few.
        self._plain: dict[str, Mailbox] = {}
        #: Messages in all mailboxes.
        self._buffered = 0
        #: Process-local names of this process, with the id of the last row read of each.
        self._cursors: dict[str, int] = {}
        #: What is to be released, and how many rows were read since the last release.
        self._release = Release()
        self.unreleased = 0
        #: Messages dropped for members of a group whose mailbox was full, not reported yet.
        self.dropped = 0

    # What the table knows of us, and we of it

    def own(self, name: str) -> bool:
        """Takes a process-local name as this process's.  True if it was not before."""
        if name in self._cursors:
            return False
        with self._lock:
            self._cursors.setdefault(name, 0)
        return True

    def seen(self, name: str) -> int:
        """The id of the last row of ``name`` that this process has read."""
        return self._cursors.get(name, 0)

    def buffered(self, channel: str) -> int:
        """How many messages of ``channel`` wait in memory."""
        mailbox = self._mailboxes.get(channel)
        return len(mailbox.parcels) if mailbox else 0

    def ask(self, now: float) -> Look:
        """What the next look is to read."""
        with self._lock:
            wanted = {
                name: len(mailbox.receivers) - len(mailbox.parcels)
                for name, mailbox in self._plain.items()
                if len(mailbox.receivers) > len(mailbox.parcels)
            }
            return Look(now, dict(self._cursors), wanted, self._buffered > 0)

    def deliver(self, looked: Looked, now: float, decrypt: Callable[[bytes], bytes | None]) -> bool:
        """Takes in what a look found.  True if there may be more to look for.

        ``decrypt`` returns None for what is to be dropped.  Looks may overlap, and be delivered in
        any order: a row at or before the cursor has been taken in already.
        """
        rows = {
            name: [(row, decrypt(row.data)) for row in found] for name, found in looked.rows.items()
        }
        claimed = {
            name: [(row, decrypt(row.data)) for row in found]
            for name, found in looked.claimed.items()
        }
        with self._lock:
            if looked.flushed:
                self._void(looked.flushed)
            for name, found in rows.items():
                self._take_in(name, found, now)
            for name, taken in claimed.items():
                self._take_claimed(name, taken)
        return not looked.is_all or any(
            data is None for taken in claimed.values() for _, data in taken
        )

    def _take_in(self, name: str, found: list[tuple[Row, bytes | None]], now: float) -> None:
        cursor = self._cursors.get(name, 0)
        for row, data in found:
            if row.id <= cursor:
                continue
            cursor = row.id
            self.unreleased += 1
            if data is None or row.expires_at <= now:
                continue
            parcel = Parcel(row.id, data, row.expires_at)
            members = row.recipients.split(",")
            for member in members:
                self._put(name + member, parcel, is_direct=len(members) == 1)
        self._cursors[name] = self._release.read[name] = cursor

    def _put(self, channel: str, parcel: Parcel, *, is_direct: bool) -> None:
        mailbox = self._mailbox(channel)
        if mailbox.limit is not None and len(mailbox.parcels) >= mailbox.limit:
            if not is_direct:
                # As the specification has it: a full member of a group misses the message.
                self.dropped += 1
                return
            parcel.is_parked = True
            self._release.park.append(parcel.id)
        mailbox.parcels.append(parcel)
        self._buffered += 1
        _call(mailbox)

    def _take_claimed(self, name: str, taken: list[tuple[Claimed, bytes | None]]) -> None:
        mailbox = self._mailbox(name)
        for row, data in taken:
            if data is not None:
                mailbox.claimed[row.id] = row
                mailbox.parcels.append(Parcel(row.id, data, row.expires_at))
                self._buffered += 1
                _call(mailbox)

    def _mailbox(self, channel: str) -> Mailbox:
        mailbox = self._mailboxes.get(channel)
        if mailbox is None:
            mailbox = self._mailboxes[channel] = Mailbox(self._capacity(channel))
            if "!" not in channel:
                self._plain[channel] = mailbox
        return mailbox

    # Receivers

    def take(self, channel: str, now: float) -> Parcel | None:
        """The oldest message of ``channel``, out of its mailbox."""
        with self._lock:
            mailbox = self._mailboxes.get(channel)
            if mailbox is None:
                return None
            while mailbox.parcels:
                parcel = self._pop(mailbox)
                if parcel.expires_at > now:
                    return parcel
            return None

    def wait(self, channel: str) -> Receiver:
        """Enters the running coroutine as one who waits for ``channel``."""
        loop = asyncio.get_running_loop()
        receiver = Receiver(loop, loop.create_future(), contextvars.copy_context())
        with self._lock:
            mailbox = self._mailbox(channel)
            mailbox.receivers.append(receiver)
            if mailbox.parcels:  # one came since the caller looked
                _call(mailbox)
        return receiver

    def leave(self, channel: str, receiver: Receiver) -> None:
        """Takes out a receiver that is done waiting."""
        with self._lock:
            self._mailboxes[channel].receivers.remove(receiver)

    def pass_on(self, channel: str) -> None:
        """After a receiver was cancelled: another one gets what it may have been called for."""
        with self._lock:
            mailbox = self._mailboxes[channel]
            if mailbox.parcels:
                _call(mailbox)

    def a_receiver(self) -> Receiver | None:
        """Some coroutine that waits, on a loop that is open; None if nobody waits."""
        with self._lock:
            for mailbox in self._mailboxes.values():
                for receiver in mailbox.receivers:
                    if not receiver.loop.is_closed():
                        return receiver
        return None

    def fail(self, error: Exception) -> None:
        """Raises ``error`` in every receiver: waiting longer cannot help."""
        with self._lock:
            for mailbox in self._mailboxes.values():
                for receiver in mailbox.receivers:
                    with suppress(RuntimeError):  # its loop is closed
                        receiver.loop.call_soon_threadsafe(_set, receiver.future, error)

    # Upkeep

    def plain_channels(self) -> set[str]:
        """Plain channels that somebody waits for."""
        with self._lock:
            return {name for name, mailbox in self._plain.items() if mailbox.receivers}

    def to_release(self) -> Release:
        """What this process is through with, to tell the table; ``restore`` it if that fails."""
        with self._lock:
            for name, mailbox in self._plain.items():
                while mailbox.parcels and not mailbox.receivers:
                    claimed = mailbox.claimed[mailbox.parcels[0].id]
                    self._release.unclaimed.append((name, claimed))
                    self._pop(mailbox)
            through, self._release = self._release, Release()
            self.unreleased = 0
            return through

    def restore(self, through: Release) -> None:
        """Puts back what could not be told."""
        with self._lock:
            later, self._release = self._release, through
            through.read |= later.read
            through.park += later.park
            through.received += later.received
            through.unclaimed += later.unclaimed

    def sweep(self, now: float) -> None:
        """Forgets what has expired, and mailboxes that nobody uses."""
        with self._lock:
            for name, mailbox in list(self._mailboxes.items()):
                while mailbox.parcels and mailbox.parcels[0].expires_at <= now:
                    self._pop(mailbox)
                for receiver in [each for each in mailbox.receivers if each.loop.is_closed()]:
                    mailbox.receivers.remove(receiver)
                if not mailbox.parcels and not mailbox.receivers:
                    del self._mailboxes[name]
                    self._plain.pop(name, None)

    def clear(self) -> None:
        """Forgets every message."""
        with self._lock:
            for mailbox in self._mailboxes.values():
                mailbox.parcels.clear()
                mailbox.claimed.clear()
            self._buffered = 0
            self._release = Release()

    def _void(self, flushed: int) -> None:
        for mailbox in self._mailboxes.values():
            while mailbox.parcels and mailbox.parcels[0].id < flushed:
                self._pop(mailbox)

    def _pop(self, mailbox: Mailbox) -> Parcel:
        parcel = mailbox.parcels.popleft()
        self._buffered -= 1
        mailbox.claimed.pop(parcel.id, None)
        if parcel.is_parked:
            self._release.received.append(parcel.id)
        return parcel


def _call(mailbox: Mailbox) -> None:
    """Wakes the receiver that has waited longest and was not called yet."""
    for receiver in mailbox.receivers:
        if receiver.is_called or receiver.future.done() or receiver.loop.is_closed():
            continue
        try:
            if receiver.loop is running_loop():
                receiver.future.set_result(None)
            else:
                receiver.loop.call_soon_threadsafe(_set, receiver.future)
        except RuntimeError:
            continue  # its loop was closed just now
        receiver.is_called = True
        return


def _set(future: asyncio.Future[None], error: Exception | None = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(None)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop of this thread, None outside of one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
