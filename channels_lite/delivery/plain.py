"""RECEIVE, from plain channels: how many messages to claim, and which ones to requeue.

Several processes may take rows of a plain channel.  So `claims` claims at most one row for each
coroutine that waits here, and requeues rows for which no coroutine waits any more.

Thread: any, under the lock of `mailboxes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from channels_lite.delivery.capacity import Limit
from channels_lite.delivery.mailbox import Mailbox, Message
from channels_lite.delivery.mailboxes import Mailboxes
from channels_lite.delivery.stats import Stats
from channels_lite.loops import running_loop
from channels_lite.store.sql import Claimed

__all__ = ["AllMailboxes"]


class AllMailboxes(Mailboxes):
    """The mailboxes of process-local and of plain channels.  The latter have claimed rows."""

    def __init__(self, limit: Callable[[str], Limit | None], stats: Stats) -> None:
        super().__init__(limit, stats)
        self._plain: dict[str, Mailbox] = {}

    def _mailbox(self, channel: str) -> Mailbox:
        mailbox = super()._mailbox(channel)
        if "!" not in channel:
            self._plain[channel] = mailbox
        return mailbox

    def _forget(self, channel: str) -> None:
        super()._forget(channel)
        self._plain.pop(channel, None)

    def put_claimed(self, name: str, claimed: Iterable[tuple[Claimed, bytes]]) -> bool:
        """Adds claimed rows, with their data decrypted, to a plain channel.

        Returns whether a coroutine waits for each.
        """
        running = running_loop()
        with self._lock:
            mailbox = self._mailboxes.get(name) or self._mailbox(name)
            for row, data in claimed:
                mailbox.claimed[row.id] = row
                mailbox.add(Message(row.id, data, row.expires_at), running)
            mailbox.forget_closed_loops()
            return len(mailbox.claimed) <= len(mailbox.receivers)

    def plain_channels(self) -> set[str]:
        """The plain channels on which a coroutine waits."""
        if not self._plain:
            return set()
        with self._lock:
            return {name for name, mailbox in self._plain.items() if mailbox.receivers}

    def is_wanted(self, channel: str) -> bool:
        """Whether a receiver waits on this plain channel, as far as is known without the lock."""
        mailbox = self._plain.get(channel)
        return mailbox is not None and len(mailbox.receivers) > len(mailbox.claimed)

    def wanted(self, channels: Iterable[str]) -> dict[str, int]:
        """The number of messages for which each of these plain channels has a waiting receiver."""
        wanted = {}
        with self._lock:
            for name in channels:
                mailbox = self._plain.get(name)
                if mailbox is not None:
                    mailbox.forget_closed_loops()
                    missing = len(mailbox.receivers) - len(mailbox.claimed)
                    if missing > 0:
                        wanted[name] = missing
        return wanted

    def unwanted(self) -> list[tuple[str, Claimed]]:
        """Takes out claimed rows for which no coroutine waits any more, with their channel."""
        unwanted: list[tuple[str, Claimed]] = []
        if not self._plain:
            return unwanted
        with self._lock:
            for name, mailbox in self._plain.items():
                if mailbox.claimed:
                    mailbox.forget_closed_loops()
                    while mailbox.messages and not mailbox.receivers:
                        unwanted.append((name, mailbox.claimed[mailbox.messages[0].id]))
                        self._pop(name, mailbox)
        return unwanted
