"""RECEIVE: the messages that are in this process's memory, and who waits for them.

They come as rows that were read, as frames from other processes, and from this process itself.

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
from collections.abc import Callable
from contextlib import suppress

from channels_lite.frames import Frame
from channels_lite.loops import running_loop
from channels_lite.mailbox import Mailbox, Parcel, fail
from channels_lite.stats import Stats
from channels_lite.store.sql import Claimed, FlushMark, Look, Looked, Post, Release, Row

__all__ = ["Inbox"]


class Inbox:
    """All mailboxes of a layer in this process."""

    def __init__(self, capacity: Callable[[str], int | None], stats: Stats) -> None:
        self._capacity = capacity
        self._stats = stats
        self._lock = threading.Lock()
        self._mailboxes: dict[str, Mailbox] = {}
        #: Those of plain channels, once more: a look asks for each, and there are few.
        self._plain: dict[str, Mailbox] = {}
        #: The channels whose mailboxes are full.
        self.full: set[str] = set()
        #: The last flush that this process knows of.
        self._flushed = FlushMark(0, 0.0)
        #: Process-local names of this process, with the id up to which rows of each were read and
        #: are not released yet.
        self._cursors: dict[str, int] = {}
        #: The same, whether released or not.
        self._seen: dict[str, int] = {}
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

    def cursor(self, name: str) -> int:
        """The id behind which rows of ``name`` wait in the table."""
        return self._cursors.get(name, 0)

    def seen(self, name: str) -> int:
        """The id of the last row of ``name`` that this process has read, or looked for in vain."""
        return self._seen.get(name, 0)

    def buffered(self, channel: str) -> int:
        """How many messages of ``channel`` wait in memory."""
        mailbox = self._mailboxes.get(channel)
        return len(mailbox.parcels) if mailbox else 0

    def ask(self, now: float, *, deletes: bool) -> Look:
        """What the next look is to read, and whether it deletes what it reads."""
        with self._lock:
            for mailbox in self._plain.values():
                mailbox.forget_closed_loops()
            wanted = {
                name: len(mailbox.receivers) - len(mailbox.parcels)
                for name, mailbox in self._plain.items()
                if len(mailbox.receivers) > len(mailbox.parcels)
            }
            cursors, unclaimed = dict(self._cursors), self._give_up()
            return Look(now, cursors, wanted, unclaimed, self._flushed, deletes)

    def deliver(
        self,
        asked: Look,
        looked: Looked,
        frames: list[Frame],
        now: float,
        decrypt: Callable[[bytes], bytes | None],
    ) -> bool:
        """Takes in what a look found, and the frames that came until then.

        True if there may be more to look for.  ``decrypt`` returns None for what is to be dropped.
        Looks may overlap, and be delivered in any order: a row at or before the cursor has been
        taken in already.
        """
        opened = [(frame, decrypt(frame.data)) for frame in frames]
        rows = {
            name: [(row, decrypt(row.data)) for row in found] for name, found in looked.rows.items()
        }
        claimed = {
            name: [(row, decrypt(row.data)) for row in found]
            for name, found in looked.claimed.items()
        }
        with self._lock:
            if asked.flushed != self._flushed:  # of what was found some was before the flush
                first = self._flushed.id
                rows = {
                    name: [row for row in found if row[0].id >= first]
                    for name, found in rows.items()
                }
                claimed = {
                    name: [row for row in taken if row[0].id >= first]
                    for name, taken in claimed.items()
                }
            if looked.flushed is not None and looked.flushed.at > self._flushed.at:
                self._void(looked.flushed)
            if looked.is_rewound:
                self._cursors = dict.fromkeys(self._cursors, 0)
                self._seen.clear()
                self._release.read.clear()
            for frame, data in opened:
                if frame.after and frame.name in rows:
                    before = [each for each in rows[frame.name] if each[0].id <= frame.after]
                    self._take_in(frame.name, before, now, looked.is_deleted)
                    del rows[frame.name][: len(before)]
                self._take_frame(frame, data, now)
                self._seen[frame.name] = max(self._seen.get(frame.name, 0), frame.after)
            for name, found in rows.items():
                self._take_in(name, found, now, looked.is_deleted)
            for name, taken in claimed.items():
                self._take_claimed(name, taken)
        return (
            not looked.is_all
            or looked.is_rewound
            or any(data is None for taken in claimed.values() for _, data in taken)
        )

    def has_waiting(self, post: Post) -> bool:
        """Whether a coroutine waits on one of the post's channels that are full."""
        with self._lock:
            return any(
                mailbox.is_full and mailbox.receivers
                for member in post.recipients.split(",")
                if (mailbox := self._mailboxes.get(post.name + member)) is not None
            )

    def take_frames(
        self, frames: list[Frame], now: float, decrypt: Callable[[bytes], bytes | None]
    ) -> None:
        """Takes in frames that come after no row that is still to be read."""
        opened = [(frame, decrypt(frame.data)) for frame in frames]
        with self._lock:
            for frame, data in opened:
                self._take_frame(frame, data, now)

    def hand_over(self, post: Post) -> int | None:
        """Takes in a message of this process's own, not encrypted, to channels of its own.

        Returns how many of them were full.  None: it was not taken, for nobody has received on the
        one channel yet; until then messages count as waiting in the table.
        """
        name, is_direct = post.name, post.channel != post.name
        full = 0
        with self._lock:
            if is_direct:
                mailbox = self._mailboxes.get(post.channel)
                if mailbox is None or not mailbox.is_served:
                    return None
            parcel = Parcel(0, post.data, post.expires_at, post.created_at)
            running = running_loop()
            for member in post.recipients.split(","):
                channel = name + member
                mailbox = self._mailboxes.get(channel) or self._mailbox(channel)
                if mailbox.is_full:
                    full += 1
                else:
                    self._add(channel, mailbox, parcel, running)
        return full

    def _take_in(
        self, name: str, found: list[tuple[Row, bytes | None]], now: float, is_deleted: bool
    ) -> None:
        cursor = self._cursors.get(name, 0)
        for row, data in found:
            if row.id <= cursor:
                continue
            if not is_deleted:
                cursor = row.id
                self.unreleased += 1
            if row.expires_at <= now:
                self._stats.expired += 1
            elif data is not None:
                self._put(name, row.recipients, Parcel(row.id, data, row.expires_at))
        if found:
            self._seen[name] = max(self._seen.get(name, 0), found[-1][0].id)
            if not is_deleted:
                self._cursors[name] = self._release.read[name] = cursor

    def _take_frame(self, frame: Frame, data: bytes | None, now: float) -> None:
        if frame.expires_at <= now:
            self._stats.expired += 1
        elif data is not None and frame.created_at >= self._flushed.at:
            parcel = Parcel(0, data, frame.expires_at, frame.created_at)
            self._put(frame.name, frame.recipients, parcel)

    def _put(self, name: str, recipients: str, parcel: Parcel) -> None:
        members = recipients.split(",")
        running = running_loop()
        for member in members:
            channel = name + member
            mailbox = self._mailboxes.get(channel) or self._mailbox(channel)
            if mailbox.is_full:
                if len(members) > 1:
                    # As the specification has it: a full member of a group misses the message.
                    self.dropped += 1
                    continue
                if parcel.id:
                    parcel.is_parked = True
                    self._release.park.append((parcel.id, name))
            self._add(channel, mailbox, parcel, running)

    def _add(
        self,
        channel: str,
        mailbox: Mailbox,
        parcel: Parcel,
        running: asyncio.AbstractEventLoop | None,
    ) -> None:
        mailbox.parcels.append(parcel)
        if mailbox.is_full:
            self.full.add(channel)
        if mailbox.receivers:
            mailbox.call(running)

    def _take_claimed(self, name: str, taken: list[tuple[Claimed, bytes | None]]) -> None:
        mailbox = self._mailbox(name)
        for row, data in taken:
            if data is not None:
                mailbox.claimed[row.id] = row
                parcel = Parcel(row.id, data, row.expires_at)
                self._add(name, mailbox, parcel, running_loop())

    def _mailbox(self, channel: str) -> Mailbox:
        mailbox = self._mailboxes.get(channel)
        if mailbox is None:
            mailbox = self._mailboxes[channel] = Mailbox(self._capacity(channel))
            if "!" not in channel:
                self._plain[channel] = mailbox
        return mailbox

    # Receivers

    def is_served(self, channel: str) -> bool:
        """Whether a coroutine receives there, now or between two messages."""
        mailbox = self._mailboxes.get(channel)
        return mailbox is not None and mailbox.is_served

    def take(
        self, channel: str, now: float, receiver: asyncio.Future[None] | None = None
    ) -> Parcel | None:
        """The oldest message of ``channel``, out of its mailbox; ``receiver`` is done waiting."""
        mailbox = self._mailboxes.get(channel)
        if mailbox is None or (receiver is None and not mailbox.parcels):
            return None
        with self._lock:
            if receiver is not None:
                mailbox.leave(receiver)
            while mailbox.parcels:
                parcel = self._pop(channel, mailbox)
                if parcel.expires_at > now:
                    return parcel
                self._stats.expired += 1
            return None

    def wait(self, channel: str, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Enters the coroutine that runs on ``loop`` as one who waits for ``channel``."""
        with self._lock:
            return (self._mailboxes.get(channel) or self._mailbox(channel)).enter(loop)

    def leave(self, channel: str, receiver: asyncio.Future[None]) -> bool:
        """Takes out a cancelled receiver; another one gets what it may have been called for.

        False: its loop was closed, and `sweep` takes it out.  Then its coroutine ends when Python
        collects it, which can be within any allocation under the lock: it must not be asked for.
        """
        if receiver.get_loop().is_closed():
            return False
        with self._lock:
            mailbox = self._mailboxes[channel]
            mailbox.leave(receiver)
            if mailbox.parcels:
                mailbox.call(running_loop())
        return True

    @property
    def is_empty(self) -> bool:
        """Whether no message waits in memory."""
        with self._lock:
            return not any(mailbox.parcels for mailbox in self._mailboxes.values())

    def loops(self) -> set[asyncio.AbstractEventLoop]:
        """Those that run, and on which somebody waits."""
        with self._lock:
            receivers = [each for mailbox in self._mailboxes.values() for each in mailbox.receivers]
        return {each.get_loop() for each in receivers if each.get_loop().is_running()}

    def context_of_a_receiver(self) -> contextvars.Context | None:
        """That of some coroutine that waits, on a loop that is open; None if nobody waits."""
        with self._lock:
            for mailbox in self._mailboxes.values():
                if not all(each.get_loop().is_closed() for each in mailbox.receivers):
                    return mailbox.context
        return None

    def fail(self, error: Exception) -> None:
        """Raises ``error`` in every receiver: waiting longer cannot help."""
        with self._lock:
            for mailbox in self._mailboxes.values():
                for receiver in mailbox.receivers:
                    with suppress(RuntimeError):  # its loop is closed
                        fail(receiver, error)

    # Upkeep

    def plain_channels(self) -> set[str]:
        """Plain channels that somebody waits for."""
        with self._lock:
            return {name for name, mailbox in self._plain.items() if mailbox.receivers}

    def has_unclaimed(self) -> bool:
        """Whether there are claimed rows that nobody waits for, which the next look gives back."""
        with self._lock:
            return bool(self._release.unclaimed) or any(
                mailbox.parcels and not mailbox.receivers for mailbox in self._plain.values()
            )

    def _give_up(self) -> list[tuple[str, Claimed]]:
        unclaimed, self._release.unclaimed = self._release.unclaimed, []
        for name, mailbox in self._plain.items():
            mailbox.forget_closed_loops()
            while mailbox.parcels and not mailbox.receivers:
                claimed = mailbox.claimed[mailbox.parcels[0].id]
                unclaimed.append((name, claimed))
                self._pop(name, mailbox)
        return unclaimed

    def to_release(self, *, is_closing: bool) -> Release:
        """What this process is through with, to tell the table; ``restore`` it if that fails.

        With claimed rows that nobody waits for only if no look will come, to give them back.
        """
        with self._lock:
            unclaimed = self._give_up() if is_closing else []
            through, self._release = self._release, Release(unclaimed=self._release.unclaimed)
            through.unclaimed = unclaimed
            self.unreleased = 0
            return through

    def released(self, through: Release) -> None:
        """What was told is done, and no look is under way that may have read it before.

        The cursors begin again: what was behind them is out of the table, and ids may one day
        begin again, too (``manage.py flush``).
        """
        with self._lock:
            for name, cursor in through.read.items():
                if self._cursors.get(name) == cursor:
                    self._cursors[name] = 0

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
                    self._pop(name, mailbox)
                    self._stats.expired += 1
                mailbox.forget_closed_loops()
                if not mailbox.parcels and not mailbox.receivers:
                    del self._mailboxes[name]
                    self._plain.pop(name, None)

    def clear(self, flushed: FlushMark) -> None:
        """Forgets every message, and those to come that were sent before the flush."""
        with self._lock:
            self._flushed = max(self._flushed, flushed, key=lambda mark: mark.at)
            for mailbox in self._mailboxes.values():
                mailbox.parcels.clear()
                mailbox.claimed.clear()
            self.full.clear()
            self._release = Release()

    def _void(self, flushed: FlushMark) -> None:
        self._flushed = flushed

        def is_void(parcel: Parcel) -> bool:
            if parcel.id:
                return parcel.id < flushed.id
            return parcel.created_at < flushed.at

        for channel, mailbox in self._mailboxes.items():
            for parcel in [each for each in mailbox.parcels if is_void(each)]:
                mailbox.parcels.remove(parcel)
                self._is_out(channel, mailbox, parcel)

    def _pop(self, channel: str, mailbox: Mailbox) -> Parcel:
        parcel = mailbox.parcels.popleft()
        self._is_out(channel, mailbox, parcel)
        return parcel

    def _is_out(self, channel: str, mailbox: Mailbox, parcel: Parcel) -> None:
        if self.full:
            self.full.discard(channel)
        if mailbox.claimed:
            mailbox.claimed.pop(parcel.id, None)
        if parcel.is_parked:
            self._release.received.append((parcel.id, channel))
