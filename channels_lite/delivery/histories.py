"""RECEIVE, from groups with a history: the log is the truth, and a wake-up only a hint.

The process has read the log up to one id.  A look reads what is behind it, once for all members in
this process.  Each member has a position: the last message that was put into its mailbox.  A member
that is *behind* has one before the end of what was read: it has joined with ``after``, or its
mailbox was full or has dropped messages.  It is read for alone, whenever a coroutine receives there
and its mailbox is empty, until it is level with the others.  So a member that does not receive
costs a position, whatever it misses.

If messages after its position were deleted meanwhile, its next one says so.

Thread: looks begin on a loop, and complete on a thread of the store.  One lock guards all state
here; the lock of the mailboxes is taken within it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from channels_lite.clock import Clock
from channels_lite.delivery.arrivals import SLICE
from channels_lite.delivery.availability import HISTORIES, Availability
from channels_lite.delivery.groups import Groups
from channels_lite.delivery.log import Log
from channels_lite.delivery.remembered import HistoryMailboxes, HistoryMessage
from channels_lite.delivery.roll import Member, Roll
from channels_lite.delivery.stats import Stats
from channels_lite.loops import call_on, running_loop, soon
from channels_lite.serializers import UndecodableMessage
from channels_lite.store import Outcome
from channels_lite.store.history import After, Asked, New, News, Remembered

__all__ = ["Histories"]


class Histories:
    """Owns the members, the rows on their way into mailboxes, and the state of looks."""

    def __init__(
        self,
        *,
        token: str,
        log: Log,
        mailboxes: HistoryMailboxes,
        clock: Clock,
        stats: Stats,
        groups: Groups,
        expiry: float,
        availability: Availability,
        decrypt: Callable[[bytes], bytes],
        mark: Callable[[], None],
        is_open: Callable[[], bool],
        is_in_memory: bool,
    ) -> None:
        self._token = token
        self._log = log
        self._mailboxes = mailboxes
        self._clock = clock
        self._stats = stats
        self._groups = groups
        #: Seconds that a message waits in a mailbox.
        self._expiry = expiry
        self._availability = availability
        self._decrypt = decrypt
        #: Tells senders which channels are full, and which no longer are.
        self._mark = mark
        self._is_open = is_open
        self._is_in_memory = is_in_memory
        self._lock = threading.Lock()
        self._roll = Roll()
        #: The generation, and the ids up to which both tables were read.
        self._generation = self._row = self._membership = 0
        #: Messages, None if they cannot be decrypted, with the members that get them.
        self._ready: deque[tuple[New, HistoryMessage | None, list[str]]] = deque()
        self._looking: asyncio.AbstractEventLoop | None = None
        self._asked: Asked | None = None
        #: Loops that asked for another look during the current one.
        self._look_again: set[asyncio.AbstractEventLoop] = set()

    # Looks

    def look(self) -> None:
        """Reads what is new.  Call it on a running loop.  One at a time."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._is_open():
                return
            # A stopped loop may never continue.
            if self._looking is not None and self._looking.is_running():
                self._look_again.add(loop)
                return
            self._looking = loop
            asked = self._asked = Asked(
                self._clock.now_or_origin(),
                self._token,
                self._generation,
                self._row,
                # The rollback of a test's transaction frees ids: a new one may have the last again.
                0 if self._is_in_memory else self._membership,
                self._roll.known,
                self._groups.version,
                self._roll.has_members,
                self._roll.take_unchecked(),
            )
        self._log.news(asked, partial(self._looked, loop, asked))

    def _looked(
        self, loop: asyncio.AbstractEventLoop, asked: Asked, outcome: Outcome[News]
    ) -> None:
        must_look_again = False
        try:
            must_look_again = self._take_in(loop, asked, outcome)
        finally:
            with self._lock:
                if self._asked is asked:
                    self._looking = self._asked = None
                again, self._look_again = self._look_again, set()
        for other in again | {loop} if must_look_again else again:
            soon(other, self.look)

    def _take_in(
        self, loop: asyncio.AbstractEventLoop, asked: Asked, outcome: Outcome[News]
    ) -> bool:
        """Handles the outcome of a look.  True: look again."""
        if outcome.error is not None:
            self._availability.failed(HISTORIES, outcome.error)
            return False
        news = outcome.result()
        messages = list(self._messages(news.rows)) if news.rows else []
        with self._lock:
            if self._asked is not asked:  # a later look has replaced it
                return False
            if news.is_new:
                self._begin_again(news)
                return True
            behind = self._enter(news, messages)
        self.deliver()
        for channel in behind:
            self._feed_on(loop, channel)
        self._worked(has_found=bool(news.rows))
        return not news.is_all

    def _begin_again(self, news: News) -> None:
        """Ids have started again.  Members get what is sent from now on."""
        self._ready.clear()
        self._roll.begin_again(news.row)
        self._generation, self._row, self._membership = news.generation, news.row, 0

    def _worked(self, *, has_found: bool) -> None:
        if has_found:
            self._availability.worked(HISTORIES, has_found=True)
        else:
            self._availability.has_no_error(HISTORIES)

    def _enter(self, news: News, messages: Iterable[HistoryMessage | None]) -> list[str]:
        """Takes in messages, for those who were members before, and members.

        Returns the channels of new members that are behind.
        """
        joined = news.joined
        for group, (version, members) in news.members.items():
            self._roll.keep(group, version, members)
            joined += members
        for new, message in zip(news.rows, messages, strict=True):
            channels = list(self._roll.members(new.group))
            if channels:
                self._ready.append((new, message, channels))
        self._generation, self._row = news.generation, news.row
        self._membership = news.membership
        behind = []
        for member in joined:
            if self._log.limits(member.group) is not None and self._roll.add(member, news.row):
                behind.append(member.channel)
                # It gets these again, if they are after its position.
                self._mailboxes.withdraw(member.channel, member.group)
        self._roll.has_begun()
        return behind

    def _messages(self, rows: Iterable[New]) -> Iterator[HistoryMessage | None]:
        """New messages, as all members in this process get them."""
        now = self._clock.now_or_origin()
        for new in rows:
            yield self._message(new.group, new.row, now, is_live=True)

    def _message(
        self, group: str, row: Remembered, now: float, *, is_live: bool
    ) -> HistoryMessage | None:
        """None: it cannot be decrypted."""
        try:
            data = self._decrypt(row.data)
        except UndecodableMessage as error:
            self._log.drop(group, str(row.position), error)
            return None
        # From when it was sent on, unless it was read late, or its writer has another clock.
        sent_at = min(max(row.created_at, now - self._expiry / 2), now) if is_live else now
        return HistoryMessage.of(group, row, data, sent_at + self._expiry, is_live=is_live)

    # Into the mailboxes

    def deliver(self) -> None:
        """Puts messages into the mailboxes; on a loop, one slice in each iteration."""
        if running_loop() is None:  # a thread of the store, which blocks no loop
            while self._deliver():
                pass
        elif self._deliver():
            soon(asyncio.get_running_loop(), self.deliver)
        if self._mailboxes.changed:
            self._mark()

    def _deliver(self) -> bool:
        """Returns whether more wait."""
        most = SLICE
        with self._lock:
            now = self._clock.now_or_origin()
            while self._ready and most > 0:
                new, message, channels = self._ready.popleft()
                if len(channels) > most:
                    self._ready.appendleft((new, message, channels[most:]))
                    channels = channels[:most]
                most -= len(channels)
                self._put(new, message, channels, now)
            return bool(self._ready)

    def _put(
        self, new: New, message: HistoryMessage | None, channels: list[str], now: float
    ) -> None:
        self._rewind_lapsed()
        members, row = self._roll.members(new.group), new.row.id
        due = []
        for channel in channels:
            member = members.get(channel)
            if member is None or member.is_behind or member.position >= row:
                continue
            # Messages may be deleted before a look has found them.
            member.has_gap |= new.trimmed > member.position
            member.position = row
            if message is None:
                continue
            if not member.has_gap:
                due.append(channel)
            elif not self._mailboxes.put_history([channel], message.after_gap(), now):
                member.has_gap = False
                self._stats.gaps += 1
            else:
                self._roll.fall_behind(member, row - 1)
        for channel in self._mailboxes.put_history(due, message, now) if message and due else ():
            self._roll.fall_behind(members[channel], row - 1)

    def _rewind_lapsed(self) -> None:
        """Members whose mailboxes have dropped messages get them again."""
        if self._mailboxes.lapsed:
            for (channel, group), first in self._mailboxes.take_lapsed().items():
                member = self._roll.member(group, channel)
                if member is not None:
                    self._roll.fall_behind(member, first.row - 1)
                    # Others before it are gone, which its receiver was not told yet.
                    member.has_gap |= not first.is_complete

    # Members that are behind

    def serve(self, channel: str) -> None:
        """A coroutine on the running loop waits for ``channel``."""
        if self._mailboxes.lapsed:
            with self._lock:
                self._rewind_lapsed()
        if channel in self._roll.behind:
            self.feed(channel)

    def _feed_on(self, loop: asyncio.AbstractEventLoop, channel: str) -> None:
        if self._mailboxes.have_receivers((channel,)):
            call_on(loop, self.feed, channel)

    def feed(self, channel: str) -> None:
        """Reads the next messages of a member that is behind, if all in its mailbox have receivers.

        Call it on a running loop.
        """
        mailbox = self._mailboxes.get(channel)
        if mailbox is not None and mailbox.messages and not mailbox.receivers:
            return
        loop = asyncio.get_running_loop()
        with self._lock:
            asked = [
                (member, member.position)
                for member in self._roll.behind.get(channel, {}).values()
                if member.reading is None or not member.reading.is_running()
            ]
            for member, _ in asked:
                member.reading = loop
        for member, position in asked:
            done = partial(self._fed, loop, member, position)
            self._log.after(member.group, position, member.id, done)

    def feed_all(self) -> None:
        """Reads for all members that are behind and wait: an earlier read may have failed."""
        for channel in list(self._roll.behind):
            self._feed_on(asyncio.get_running_loop(), channel)

    def _fed(
        self,
        loop: asyncio.AbstractEventLoop,
        member: Member,
        position: int,
        outcome: Outcome[After],
    ) -> None:
        if outcome.error is not None:
            member.reading = None
            self._availability.failed(HISTORIES, outcome.error)
            return
        found = outcome.result()
        now = self._clock.now_or_origin()
        rows = [(r.id, self._message(member.group, r, now, is_live=False)) for r in found.rows]
        with self._lock:
            member.reading = None
            self._rewind_lapsed()
            if self._roll.member(member.group, member.channel) is not member:
                return
            if not found.is_member:
                self._roll.remove(member)
            elif member.position == position:  # else its mailbox has dropped messages meanwhile
                self._take_in_past(member, found, rows, now)
        if self._mailboxes.changed:
            self._mark()
        if member.is_behind:
            # If it has got any, its coroutine receives, and feeds it again.
            soon(loop, partial(self._feed_on, loop, member.channel))

    def _take_in_past(
        self,
        member: Member,
        found: After,
        rows: Iterable[tuple[int, HistoryMessage | None]],
        now: float,
    ) -> None:
        member.has_gap |= found.trimmed > member.position
        if self._replay(member, rows, now) and found.is_all:
            member.position = found.last
            if self._row <= found.last:
                self._roll.catch_up(member)

    def _replay(
        self, member: Member, rows: Iterable[tuple[int, HistoryMessage | None]], now: float
    ) -> bool:
        """Puts messages into the member's mailbox.  False: it is full before the last one."""
        for row, message in rows:
            if message is not None:
                if member.has_gap:
                    message.is_complete = False
                if self._mailboxes.put_history([member.channel], message, now):
                    return False
                self._stats.replayed += 1
                self._stats.gaps += member.has_gap
                member.has_gap = False
            member.position = row
        return True

    # Upkeep

    def forget(self, group: str, channel: str, but: int) -> None:
        """Forgets an earlier membership than ``but``: messages come after the new position."""
        with self._lock:
            member = self._roll.member(group, channel)
            if member is not None and member.id < but:
                self._roll.remove(member)
                self._mailboxes.withdraw(channel, group)

    def flushed(self) -> None:
        """This process has flushed the table."""
        with self._lock:
            self._ready.clear()

    def tidy(self) -> None:
        """Called regularly: the next look checks the members of some groups."""
        with self._lock:
            self._roll.check_some()
