"""RECEIVE, before the mailboxes: puts rows and frames into one order.

If a frame names a row that was not read yet, it is held until a look has read the row.  A frame of
a later generation is held until a look has read that generation.  Other frames do not wait for it:
the row that a sender names never goes back, so the sender's later frames are held, too, and a
forged frame delays only itself.  Messages in order go into the mailboxes in slices, because a
message to five thousand members must not block the loop.

Thread: any.  One lock guards both queues, so each keeps its order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from channels_lite.clock import Clock
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.mailboxes import Arrival, Mailboxes
from channels_lite.delivery.missed import Missed
from channels_lite.delivery.stats import Stats
from channels_lite.failpoints import reach
from channels_lite.loops import PER_ITERATION
from channels_lite.store.sql import Row
from channels_lite.wake.datagrams import Frame

__all__ = ["SLICE", "Arrivals", "channels_of"]

#: Channels that get a message in one iteration of a loop.
SLICE = 256
# Seconds after a frame within which more are likely.
BUSY = 0.0005


class Arrivals:
    """The held frames, and the messages on their way into the mailboxes."""

    def __init__(
        self,
        *,
        mailboxes: Mailboxes,
        cursors: Cursors,
        clock: Clock,
        stats: Stats,
        missed: Missed,
        decrypt: Callable[[bytes], bytes | None] | None,
    ) -> None:
        self._mailboxes = mailboxes
        self._cursors = cursors
        self._clock = clock
        self._stats = stats
        self._missed = missed
        #: Returns None for a message to drop; None: messages are not encrypted.
        self._decrypt = decrypt
        self._lock = threading.Lock()
        #: Numbered frames that come after a row still to be read, in the order of arrival.
        self._held: list[tuple[int, Frame]] = []
        #: The number of frames that were held so far.
        self._numbered = 0
        self._ready: deque[Arrival] = deque()
        #: Until when more frames are likely.
        self._busy_until = 0.0

    @property
    def holds(self) -> bool:
        """Whether a frame waits for a look."""
        return bool(self._held)

    @property
    def are_waiting(self) -> bool:
        """Whether `deliver` has more to do."""
        return bool(self._ready)

    def mark(self) -> tuple[int, set[str]]:
        """For a look that begins now: the number of the last held frame, and their names.

        If it reads these names, it finds every row that these frames wait for.
        """
        with self._lock:
            return self._numbered, {frame.name for _, frame in self._held}

    def take_frames(self, receive: Callable[[int | None], list[Frame]]) -> bool:
        """Takes in frames of other processes, a limited number at a time.

        True: none is held, and nothing waits for `deliver`.
        """
        with self._lock:  # in the order of sending, on any loop
            now = self._clock.now_or_origin()
            # A lone frame is usually the only one, and asking for more costs as much as a frame.
            frames = receive(PER_ITERATION if now < self._busy_until else 1)
            self._busy_until = now + BUSY
            reach("after_frames")
            for frame in frames:
                if self._held or not self._is_due(frame):
                    self._hold(frame)
                else:
                    self._add_frame(frame, now)
            if self._held:
                for frame in self._due():
                    self._add_frame(frame, now)
            missed = self._deliver(SLICE, now)
        if missed:
            self._missed.by_channels(missed)
        return not (self._held or self._ready)

    def _hold(self, frame: Frame) -> None:
        self._numbered += 1
        self._held.append((self._numbered, frame))

    def add(self, arrivals: Iterable[Arrival]) -> int:
        """Adds messages that need no order with rows and frames.  Returns how many wait."""
        with self._lock:
            self._ready.extend(arrivals)
            return len(self._ready)

    def take_rows(
        self,
        read: Callable[[], dict[str, list[Row]]],
        receive: Callable[[int | None], list[Frame]],
        mark: int | None,
        committed: int,
    ) -> bool:
        """Takes in the rows of a look, and the frames before and between these rows.

        ``read`` returns the rows that were not read before, and records them as read.  It is called
        within the lock, so that no frame comes in between.  ``mark`` is the value of `mark` when
        the look began; None: it has not found all rows.  ``committed`` is `sql.Look.committed`:
        later rows may still be uncommitted, whatever a frame says.  Returns whether there were any
        rows.
        """
        with self._lock:
            rows = read()
            for frame in receive(None):
                self._hold(frame)
            now = self._clock.now_or_origin()
            for frame in self._due(mark or 0, rows):
                after = self._place(frame)
                if after:
                    found = rows.get(frame.name)
                    while found and found[0].id <= after:
                        self._add_row(frame.name, found.pop(0), now)
                    self._cursors.has_seen(frame.name, min(after, committed))
                self._add_frame(frame, now)
            for name, found in rows.items():
                for row in found:
                    self._add_row(name, row, now)
        return bool(rows)

    def _due(self, mark: int = 0, rows: Mapping[str, list[Row]] | None = None) -> list[Frame]:
        """Takes the frames that are no longer held, in the order of the rows that they name."""
        due, held = [], []
        for number, frame in self._held:
            if number <= mark or self._is_due(frame, rows):
                due.append(frame)
            else:
                held.append((number, frame))
        self._held = held
        return sorted(due, key=self._place)

    def deliver(self, most: int | None = SLICE) -> bool:
        """Puts messages into at most ``most`` mailboxes.  Returns whether more wait."""
        with self._lock:  # even if none is ready: a look on another thread may be adding some
            missed = self._deliver(most, self._clock.now_or_origin())
        if missed:
            self._missed.by_channels(missed)
        return bool(self._ready)

    def _deliver(self, most: int | None, now: float) -> list[str]:
        ready = self._ready
        due: list[Arrival] = []
        flushed = self._cursors.flushed
        while ready and (most is None or most > 0):
            arrival = ready.popleft()
            channels, message, is_group = arrival
            if flushed.id and flushed.voids(message.id, message.created_at):
                continue
            if most is not None:
                if len(channels) > most:
                    ready.appendleft((channels[most:], message, is_group))
                    arrival = (channels[:most], message, is_group)
                most -= len(channels)
            due.append(arrival)
        return self._mailboxes.put_all(due, now) if due else []

    def _place(self, frame: Frame) -> int:
        """The row after which it comes.  One of an earlier generation comes before all rows."""
        is_of_now = frame.generation is None or frame.generation == self._cursors.generation
        return max(0, frame.after) if is_of_now else 0

    def _is_due(self, frame: Frame, rows: Mapping[str, list[Row]] | None = None) -> bool:
        """Whether the row that it comes after was read, or is among ``rows``."""
        generation, now = frame.generation, self._cursors.generation
        if generation != now and generation is not None:
            # A frame of an earlier generation comes before all rows of this one.
            return generation < now
        if not frame.after:
            return True
        found = rows.get(frame.name) if rows else None
        return frame.after <= max(found[-1].id if found else 0, self._cursors.seen(frame.name))

    def _add_frame(self, frame: Frame, now: float) -> None:
        created_at, expires_at = frame.created_at, frame.expires_at
        of = frame.generation
        if of not in (None, self._cursors.generation) and not self._clock.covers(of):
            # It follows another clock, and was on its way only for a moment.
            created_at, expires_at = now, now + frame.expires_at - frame.created_at
        if expires_at <= now:
            self._stats.expired += 1
            return
        data = frame.data if self._decrypt is None else self._decrypt(frame.data)
        if data is None:
            return
        channels = channels_of(frame.name, frame.recipients)
        is_group = len(channels) > 1 if frame.is_group is None else frame.is_group
        self._ready.append((channels, Message(0, data, expires_at, created_at), is_group))

    def _add_row(self, name: str, row: Row, now: float) -> None:
        if row.expires_at <= now:
            self._stats.expired += 1
            return
        data = row.data if self._decrypt is None else self._decrypt(row.data)
        if data is None:
            return
        message = Message(row.id, data, row.expires_at)
        # Group messages of previous versions do not have the flag.
        is_group = row.is_group or "," in row.recipients
        self._ready.append((channels_of(name, row.recipients), message, is_group))


def channels_of(name: str, recipients: str) -> list[str]:
    """The full names of the channels of a row or a frame."""
    if "," not in recipients:
        return [name + recipients]
    return [name + recipient for recipient in recipients.split(",")]
