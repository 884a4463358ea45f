"""CAPACITY: how much may wait on a channel.  `mailboxes` decides whether a channel is full.

Each channel has its own capacity, by its full name.  Its mailbox, in the receiving process, alone
decides whether it is full.  The specification allows the channels of a process to share a capacity,
and does not define how it is counted.  But if a sender sends one message to each of four hundred
idle channels, none of them must be full only because their process was busy for a moment.  Sockets
and the table, between sender and mailbox, are transport (`backpressure`), and their limit is no
channel's capacity.

A plain channel's mailbox is the table, because all processes share it: see `store.occupancy`.

If CONFIG sets no number of messages, a process-local channel is limited by bytes.  A language
model's answer, with one token per message, soon has more than a hundred messages.  A consumer that
sends them to its own room receives none of them before its handler ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Capacities", "Limit"]

#: Messages that may wait on a plain channel, if CONFIG does not set a number.
PLAIN = 100
#: Bytes that may wait on a process-local channel, if CONFIG does not set a number of messages; and
#: the bytes that a message counts in addition to its data.
LOCAL = 16 * 1024 * 1024
OVERHEAD = 256
# A full channel accepts messages again when an eighth of its capacity is free.  Otherwise the mark
# for senders would come and go with every message.
REOPEN_SHARE = 8


class Limit(NamedTuple):
    """How much may wait in one place."""

    amount: int
    is_bytes: bool

    def weight(self, data: bytes) -> int:
        """How much a message with this data counts."""
        return len(data) + OVERHEAD if self.is_bytes else 1

    @property
    def share(self) -> int:
        """How much must be free before a full channel accepts messages again."""
        return max(1, self.amount // REOPEN_SHARE)

    def __str__(self) -> str:
        return f"{self.amount} {'bytes' if self.is_bytes else 'messages'}"


class Capacities:
    """The `Limit` of a channel, by its full name; None: there is none."""

    def __init__(
        self,
        capacity: int | None,
        patterns: Sequence[tuple[re.Pattern[str], int]],
        *,
        are_enforced: bool,
    ) -> None:
        self._patterns = patterns
        self._are_enforced = are_enforced
        #: The smallest number of messages that fills a process-local channel; None: set in bytes.
        set_ones = [each for _, each in patterns] + ([] if capacity is None else [capacity])
        self.smallest = min(set_ones, default=None)
        self._plain = Limit(capacity or PLAIN, is_bytes=False)
        self._local = Limit(LOCAL, is_bytes=True) if capacity is None else self._plain

    def __call__(self, channel: str) -> Limit | None:
        """The limit of ``channel``.  The first pattern that matches applies."""
        if not self._are_enforced:
            return None
        for pattern, capacity in self._patterns:
            if pattern.match(channel):
                return Limit(capacity, is_bytes=False)
        return self._local if "!" in channel else self._plain

    def messages(self, channel: str) -> int | None:
        """The limit of a plain channel, which is always a number of messages."""
        limit = self(channel)
        return None if limit is None else limit.amount
