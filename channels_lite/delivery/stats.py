"""What a layer has done in this process: plain numbers, always counted, read by `metrics`.

Several threads count without a lock, which would cost more than the number is worth: under threads
that send at the same time one may be missed now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Stats"]


@dataclass(slots=True)
class Stats:
    """Since the process began, or was forked."""

    #: Messages that ``send()`` took, and that ``group_send()`` did: one for all members.
    sent: int = 0
    group_sent: int = 0
    #: Sends that raised ``ChannelFull``, and members of groups that missed a message.
    full: int = 0
    #: Messages that ``receive()`` returned.
    received: int = 0
    #: Messages that expired in this process's memory, or before it read them.
    expired: int = 0
    #: Messages dropped, for they could not be decoded: garbage, or encrypted with another key.
    undecodable: int = 0
    #: Wake-ups by the FIFO: somebody has committed a row, or flushed.
    wakes: int = 0
    #: Looks into the table; those by the clock that found something nobody had woken for; those
    #: that failed.
    looks: int = 0
    found_by_clock: int = 0
    failed_looks: int = 0
    #: With a relay: messages that went to other nodes, and that came from them; those to groups
    #: that other nodes have missed, for the engine was away, and jobs that were lost on the way.
    relayed: int = 0
    relay_received: int = 0
    relay_missed: int = 0
    #: Called with the seconds from ``send()`` to ``receive()`` of each message, if anybody asks.
    observe: Callable[[float], None] | None = None
