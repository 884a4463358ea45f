"""RECEIVE: messages of a history in mailboxes.

They wait there for a while only.  The table has them longer, so a mailbox that nobody reads drops
those of a group together, and says from which one on: `histories` reads them again when a coroutine
receives there.

Thread: any, under the lock of `mailboxes`.
"""

from __future__ import annotations

from copy import copy

from channels_lite.delivery.mailbox import Mailbox, Message
from channels_lite.delivery.plain import AllMailboxes
from channels_lite.loops import running_loop
from channels_lite.store.history import Remembered

__all__ = ["HistoryMailboxes", "HistoryMessage"]


class HistoryMessage(Message, eq=False, gc=False, kw_only=True):
    """A message of a history.  Members in this process that are up to date share one object."""

    group: str
    row: int
    #: Its ``history_id``.
    position: str
    #: Whether it was sent just now.
    is_live: bool
    #: Whether the receiver has got every message before it.
    is_complete: bool = True

    @classmethod
    def of(
        cls, group: str, row: Remembered, data: bytes, expires_at: float, *, is_live: bool
    ) -> HistoryMessage:
        """The message of a row."""
        return cls(
            0,  # ids of rows are those of another table, so flushes go by the time
            data,
            expires_at,
            row.created_at,
            group=group,
            row=row.id,
            position=str(row.position),
            is_live=is_live,
        )

    def after_gap(self) -> HistoryMessage:
        """The same for a receiver that has not got every message before it."""
        other = copy(self)
        other.is_complete = False
        return other


class HistoryMailboxes(AllMailboxes):
    """Mailboxes whose messages may be of a history."""

    #: Dropped messages: by channel and group, the first.
    lapsed: dict[tuple[str, str], HistoryMessage]

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.lapsed = {}

    def put_history(self, channels: list[str], message: HistoryMessage, now: float) -> list[str]:
        """Adds it.  Returns the channels that are full, or that have dropped earlier ones."""
        missed = []
        running = running_loop()
        with self._lock:
            for channel in channels:
                mailbox = self._mailboxes.get(channel) or self._mailbox(channel)
                is_full = mailbox.is_full and self._has_no_room(channel, mailbox, now)
                if is_full or (self.lapsed and (channel, message.group) in self.lapsed):
                    missed.append(channel)
                    continue
                self._add(channel, mailbox, message, running)
        return missed

    def take_lapsed(self) -> dict[tuple[str, str], HistoryMessage]:
        """The dropped messages since the last call."""
        with self._lock:
            lapsed, self.lapsed = self.lapsed, {}
        return lapsed

    def withdraw(self, channel: str, group: str) -> None:
        """Drops messages of ``group`` that wait on ``channel``."""
        with self._lock:
            mailbox = self._mailboxes.get(channel)
            if mailbox is not None:
                mailbox.take_back()
                self._withdraw(channel, mailbox, group)

    def _has_expired(self, channel: str, mailbox: Mailbox, message: Message) -> None:
        if not isinstance(message, HistoryMessage):
            super()._has_expired(channel, mailbox, message)
            return
        self.lapsed.setdefault((channel, message.group), message)
        # Those behind it must not come before it.
        self._withdraw(channel, mailbox, message.group)

    def _was_dropped(self, channel: str, message: Message) -> None:
        # A member that has joined since the flush gets it again.
        if isinstance(message, HistoryMessage):
            self.lapsed.setdefault((channel, message.group), message)

    def _withdraw(self, channel: str, mailbox: Mailbox, group: str) -> None:
        for each in list(mailbox.messages):
            if isinstance(each, HistoryMessage) and each.group == group:
                mailbox.put_first(each)
                self._pop(channel, mailbox)
