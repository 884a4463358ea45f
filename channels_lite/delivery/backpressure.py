"""SEND: how much is on its way to other processes and may be unread.

A channel's mailbox decides whether the channel is full, and it is in another process.  So each
sender follows two rules:

* It refuses a direct message while the channel has a mark, which says that its mailbox is full, and
  while messages worth the channel's capacity are on their way there.  It checks for the mark at the
  first message to a channel, and after each sixteenth of the capacity.
* Rows for one process are limited by bytes, far above usual amounts, because a stopped process must
  not fill the disk.  This limit is no channel's capacity.

A message counts as read when the socket holds only later datagrams, when the table has no row as
old, or when it has expired.  The sender checks this only when all that may be on its way was sent.
So a message to a channel that is not full costs a look-up and an addition.

Thread: any.  The lock of the frame sender also guards all windows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from channels_lite.delivery.capacity import Limit
from channels_lite.names import token_of
from channels_lite.store.sql import Envelope

__all__ = ["Admission", "Backpressure"]

#: The maximum bytes of rows, including their overhead, that a sender may have on their way to one
#: process.
TRANSPORT = Limit(64 * 1024 * 1024, is_bytes=True)
# Checks for a mark for each capacity sent.
MARK_SHARE = 16
# What is on its way is read in parts of this share of the capacity, at least.  With two halves,
# half a capacity counted as unread because of its last message.
PART_SHARE = 16
# The maximum number of remembered channels and processes.
MAX_WINDOWS = 10_000

#: From a non-local name to the id of its oldest row; None: it has none.
Oldest = Callable[[str], "int | None"]


class Part:
    """A part of what was sent to one destination, and its last message."""

    __slots__ = ("datagram", "expires_at", "name", "row", "weight")

    def __init__(self) -> None:
        self.weight = 0
        #: The last datagram's number, and the last row with its name; when the last one expires.
        self.datagram = 0
        self.name, self.row = "", 0
        self.expires_at = 0.0


class Window:
    """What was sent to one destination and may be unread, in parts."""

    __slots__ = ("_older", "_unchecked", "credit", "is_marked", "limit", "newest")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        #: The parts before the newest one, the oldest first.
        self._older: list[Part] = []
        self.newest = Part()
        #: How much more may be sent without a check.
        self.credit = 0
        #: Whether the last check found a mark; and how much may have been sent since that check;
        #: below 0: a check is due.
        self.is_marked = False
        self._unchecked = -1

    def has_room(self, weight: int, beside: int, is_read: Callable[[Part], bool]) -> bool:
        """Whether ``weight`` more may be on its way, in addition to ``beside`` of the same batch.

        The first message always may.
        """
        amount, on_its_way = self.limit.amount, self._on_its_way
        if on_its_way > 0 and amount < on_its_way + beside + weight:
            self._forget_read(is_read)
            on_its_way = self._on_its_way
        on_its_way += beside
        return on_its_way + weight <= amount or not on_its_way

    def _forget_read(self, is_read: Callable[[Part], bool]) -> None:
        """Any part: a row is deleted some time after it was read, later than frames after it."""
        parts = [*self._older, self.newest]
        unread = [part for part in parts if part.weight and not is_read(part)]
        if len(unread) < len(parts):
            self._unchecked = -1
        self.newest = unread.pop() if unread else Part()
        self._older = unread

    @property
    def _on_its_way(self) -> int:
        return self.newest.weight + sum(part.weight for part in self._older)

    def add(self, weight: int, envelope: Envelope, datagram: int, row: int) -> None:
        """Records what was sent."""
        if self.newest.weight and self.newest.weight * PART_SHARE >= self.limit.amount:
            self._older.append(self.newest)
            self.newest = Part()
        part = self.newest
        part.weight += weight
        if row:
            part.name, part.row = envelope.name, row
        else:
            part.datagram = datagram
        part.expires_at = max(part.expires_at, envelope.expires_at)
        self.credit -= weight

    def withdraw(self, weight: int) -> None:
        """``weight`` of what was added last was not sent after all."""
        self.credit += weight
        self.newest.weight -= weight
        while self.newest.weight < 0 and self._older:  # some of it is in an older part
            rest, self.newest = self.newest.weight, self._older.pop()
            self.newest.weight += rest

    def give_credit(self) -> None:
        """Allows sends without a check, until all is sent, or the mark must be checked again."""
        amount = self.limit.amount
        self.credit = max(0, min(amount - self._on_its_way, amount // MARK_SHARE))
        self._unchecked += max(1, self.credit)

    @property
    def must_look(self) -> bool:
        """Whether to check for the mark now."""
        return (
            self.is_marked
            or self._unchecked < 0
            or self._unchecked * MARK_SHARE >= self.limit.amount
        )

    def looked(self, *, is_marked: bool) -> bool:
        """Records the result of the check.  True: the mailbox was full, and has room again."""
        is_open_again = self.is_marked and not is_marked
        if is_open_again:
            self.newest.weight = self.limit.amount - self.limit.share
            self._older, self.newest = [self.newest], Part()
        self.is_marked, self._unchecked = is_marked, 0
        return is_open_again


class Backpressure:
    """The windows of this process."""

    def __init__(
        self,
        limit: Callable[[str], Limit | None],
        has_mark: Callable[[str], bool],
        read_up_to: Callable[[str], int],
        lock: threading.Lock,
    ) -> None:
        #: The limit of a channel, by its full name.
        self._limit = limit
        #: Whether a channel has a mark.
        self._has_mark = has_mark
        #: The number of the last datagram that a process, by its token, has certainly read.
        self._read_up_to = read_up_to
        self._lock = lock
        #: By channel, for direct messages; and by token, for rows.
        self._channels: dict[str, Window | None] = {}
        self._processes: dict[str, Window | None] = {}
        #: The id below which a name has no row any more.
        self._oldest: dict[str, int] = {}

    def admit(self, envelope: Envelope, datagram: int) -> bool | None:
        """Records a direct message that is about to be sent in this datagram.

        False: its channel is full.  None: its capacity may be on its way, and only the table can
        tell.  Call it, and `withdraw`, with the lock.
        """
        window = self._channels.get(envelope.channel) or self._window(envelope.channel)
        if window is None:
            return True
        weight = window.limit.weight(envelope.data)
        if window.credit >= weight:
            part = window.newest
            part.weight += weight
            part.datagram = datagram
            part.expires_at = envelope.expires_at
            window.credit -= weight
            return True
        is_admitted = self._admits(
            window, envelope, 0, self._reads(envelope.name, envelope.created_at, None)
        )
        if is_admitted:
            window.add(weight, envelope, datagram, 0)
            window.give_credit()
        return is_admitted

    def withdraw(self, envelopes: Iterable[Envelope]) -> None:
        """The envelopes were not sent after all."""
        for envelope in envelopes:
            window = self._window(envelope.channel) if envelope.channel else None
            if window is not None:
                window.withdraw(window.limit.weight(envelope.data))

    def admits(self, envelope: Envelope, beside: int, now: float, oldest: Oldest) -> bool:
        """Whether there is room for a direct message's row, in addition to others of the batch."""
        with self._lock:
            window = self._window(envelope.channel)
            if window is None:
                return True
            return bool(
                self._admits(window, envelope, beside, self._reads(envelope.name, now, oldest))
            )

    def _admits(
        self, window: Window, envelope: Envelope, beside: int, is_read: Callable[[Part], bool]
    ) -> bool | None:
        has_room = window.has_room(window.limit.weight(envelope.data), beside, is_read)
        # Check the mark after that: messages that were read are in the mailbox, which may be full.
        if window.must_look and window.looked(is_marked=self._has_mark(envelope.channel)):
            has_room = True
        return False if window.is_marked else has_room or None

    def has_transport(self, envelope: Envelope, beside: int, now: float, oldest: Oldest) -> bool:
        """Whether a row may be written, given all rows for its process."""
        with self._lock:
            window = self._processes.get(token_of(envelope.name))
            is_read = self._reads(envelope.name, now, oldest)
            weight = TRANSPORT.weight(envelope.data)
            return window is None or window.has_room(weight, beside, is_read)

    def weight(self, envelope: Envelope) -> int:
        """How much a direct message counts."""
        window = self._channels.get(envelope.channel)
        return 0 if window is None else window.limit.weight(envelope.data)

    def put(self, envelope: Envelope, row: int) -> None:
        """Records a row."""
        with self._lock:
            token = token_of(envelope.name)
            process = self._processes.get(token)
            if process is None:
                process = Window(TRANSPORT)
                self._remember(self._processes, token, process)
            process.add(TRANSPORT.weight(envelope.data), envelope, 0, row)
            window = self._window(envelope.channel) if envelope.channel else None
            if window is not None:
                window.add(window.limit.weight(envelope.data), envelope, 0, row)

    def forget(self) -> None:
        """Ids have started again, so no earlier message is still on its way.

        Call it with the lock.
        """
        self._channels.clear()
        self._processes.clear()
        self._oldest.clear()

    def _window(self, channel: str) -> Window | None:
        if channel in self._channels:
            return self._channels[channel]
        limit = self._limit(channel)
        window = None if limit is None else Window(limit)
        self._remember(self._channels, channel, window)
        return window

    @staticmethod
    def _remember(windows: dict[str, Window | None], key: str, window: Window | None) -> None:
        if len(windows) >= MAX_WINDOWS:  # drops the oldest one
            del windows[next(iter(windows))]
        windows[key] = window

    def _reads(self, name: str, now: float, oldest: Oldest | None) -> Callable[[Part], bool]:
        token = token_of(name)
        # Asked once for all parts.
        read_up_to: int | None = None
        first: dict[str, int | None] = {}

        def is_read(part: Part) -> bool:
            nonlocal read_up_to
            if part.expires_at <= now:
                return True
            if read_up_to is None:
                read_up_to = self._read_up_to(token)
            if part.datagram > read_up_to:
                return False
            if part.row and oldest is not None and self._oldest.get(part.name, 0) <= part.row:
                if part.name not in first:
                    first[part.name] = oldest(part.name)
                if len(self._oldest) >= MAX_WINDOWS:
                    self._oldest.clear()
                self._oldest[part.name] = first[part.name] or part.row + 1
            return not part.row or self._oldest.get(part.name, 0) > part.row

        return is_read


class Admission:
    """What one transaction adds.  It counts when the transaction is committed."""

    def __init__(self, backpressure: Backpressure, now: float) -> None:
        self._backpressure = backpressure
        self._now = now
        self._admitted: list[tuple[Envelope, int]] = []
        #: What was admitted for each channel and process.
        self._weights: dict[str, int] = {}

    def admits(self, envelope: Envelope, oldest: Oldest) -> bool:
        """Whether there is room for this row."""
        beside = self._weights.get(token_of(envelope.name), 0)
        if not self._backpressure.has_transport(envelope, beside, self._now, oldest):
            return False
        if not envelope.channel:
            return True
        beside = self._weights.get(envelope.channel, 0)
        return self._backpressure.admits(envelope, beside, self._now, oldest)

    def admit(self, envelope: Envelope, row: int) -> None:
        """It is in the table, under this id."""
        self._admitted.append((envelope, row))
        token = token_of(envelope.name)
        self._weights[token] = self._weights.get(token, 0) + TRANSPORT.weight(envelope.data)
        if envelope.channel:
            weight = self._weights.get(envelope.channel, 0) + self._backpressure.weight(envelope)
            self._weights[envelope.channel] = weight

    def committed(self) -> None:
        """It is on its way."""
        for envelope, row in self._admitted:
            self._backpressure.put(envelope, row)
