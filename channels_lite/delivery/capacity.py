"""CAPACITY: how much may wait on a channel; whether it does is for `mailboxes` to judge.

Each channel has a capacity of its own, by its full name, and one judge: its mailbox in the process
that receives on it.  The specification lets the channels of a process share a capacity and leaves
open how it is counted; but one message to each of four hundred idle channels must not find the
fourth hundred full because their process was busy for a moment.  What lies between sender and
mailbox, sockets and the table, is transport (`backpressure`), whose bound is no channel's
capacity.

A plain channel's mailbox is the table, for all processes share it: see `store.occupancy`.

Unless CONFIG says how many messages, a process-local channel is bounded by bytes: a language
model's answer, a token a message, soon has more than a hundred, and a consumer that sends them to
a room it is a member of takes none of them before its handler ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Capacities", "Limit"]

#: Messages that may wait on a plain channel, unless CONFIG says how many.
PLAIN = 100
#: Bytes that may wait on a process-local channel, unless CONFIG says how many messages; and what a
#: message counts for beside its data.
LOCAL = 16 * 1024 * 1024
OVERHEAD = 256
# A channel that was full takes messages again when an eighth of its capacity is free: the mark that
# tells senders would come and go with every message otherwise.
REOPEN_SHARE = 8


class Limit(NamedTuple):
    """How much may wait in one place."""

    amount: int
    is_bytes: bool

    def weight(self, data: bytes) -> int:
        """What a message with this data counts for."""
        return len(data) + OVERHEAD if self.is_bytes else 1

    @property
    def share(self) -> int:
        """What has to be free in a place that was full until it takes messages again."""
        return max(1, self.amount // REOPEN_SHARE)

    def __str__(self) -> str:
        return f"{self.amount} {'bytes' if self.is_bytes else 'messages'}"


class Capacities:
    """From a channel's full name to its `Limit`; None: there is none."""

    def __init__(
        self,
        capacity: int | None,
        patterns: Sequence[tuple[re.Pattern[str], int]],
        *,
        are_enforced: bool,
    ) -> None:
        self._patterns = patterns
        self._are_enforced = are_enforced
        #: The least number of messages that fill a process-local channel; None: it is bytes.
        set_ones = [each for _, each in patterns] + ([] if capacity is None else [capacity])
        self.smallest = min(set_ones, default=None)
        self._plain = Limit(capacity or PLAIN, is_bytes=False)
        self._local = Limit(LOCAL, is_bytes=True) if capacity is None else self._plain

    def __call__(self, channel: str) -> Limit | None:
        """The first pattern that matches counts."""
        if not self._are_enforced:
            return None
        for pattern, capacity in self._patterns:
            if pattern.match(channel):
                return Limit(capacity, is_bytes=False)
        return self._local if "!" in channel else self._plain

    def messages(self, channel: str) -> int | None:
        """The same of a plain channel, whose limit is always a number of messages."""
        limit = self(channel)
        return None if limit is None else limit.amount
