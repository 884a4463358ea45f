"""Counts of what a layer has done in this process; `metrics` reads them.

Several threads count without a lock, which would cost too much.  So if threads send at the same
time, a count may sometimes miss one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Stats"]


@dataclass(slots=True)
class Stats:
    """Counts since the process started or was forked."""

    #: Messages that ``send()`` accepted, and that ``group_send()`` accepted: one for all members.
    sent: int = 0
    group_sent: int = 0
    #: Sends that raised ``ChannelFull``, and members of groups that missed a message.
    full: int = 0
    #: Messages that ``receive()`` returned.
    received: int = 0
    #: Messages that expired in this process's memory, or before it read them.
    expired: int = 0
    #: Messages dropped as undecodable: garbage, or encrypted with another key.
    undecodable: int = 0
    #: Wake-ups by the FIFO: a process has committed a row, or flushed.
    wakes: int = 0
    #: Reads of the table; timed reads that found rows without a wake-up; reads that failed.
    looks: int = 0
    found_by_clock: int = 0
    failed_looks: int = 0
    #: With a relay: messages sent to other nodes, and received from them.
    relayed: int = 0
    relay_received: int = 0
    #: Messages that other nodes missed because the engine was away, and jobs that were lost.
    relay_missed: int = 0
    #: In groups with a history: messages appended, replayed to members that were behind, and
    #: deleted; and members that were told that messages are gone.
    appended: int = 0
    replayed: int = 0
    trimmed: int = 0
    gaps: int = 0
    #: If set, called for each message with the seconds from ``send()`` to ``receive()``.
    observe: Callable[[float], None] | None = None
