"""RECEIVE from other nodes: their messages go into the mailboxes of this process.

The mailbox enforces the capacity, as for any member of a group.

Thread: any.  It has no state, so no lock.
"""

from __future__ import annotations

from collections.abc import Callable

from channels_lite.clock import Clock
from channels_lite.delivery.arrivals import Arrivals
from channels_lite.delivery.availability import Availability
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.mailboxes import Arrival
from channels_lite.delivery.roster import Roster
from channels_lite.delivery.stats import Stats
from channels_lite.names import split
from channels_lite.relay.wire import Entry

__all__ = ["Imports"]


class Imports:
    """Finds the channels of each message."""

    def __init__(
        self,
        *,
        token: str,
        roster: Roster,
        arrivals: Arrivals,
        availability: Availability,
        clock: Clock,
        stats: Stats,
        decrypt: Callable[[bytes], bytes | None],
        deliver: Callable[[int], None],
    ) -> None:
        self._names_end = f"{token}!"
        self._roster = roster
        self._arrivals = arrivals
        self._availability = availability
        self._clock = clock
        self._stats = stats
        self._decrypt = decrypt
        #: Puts the messages of `arrivals`, whose number it is given, into the mailboxes.
        self._deliver = deliver

    def take(self, group: str, entries: list[Entry]) -> None:
        """Messages to a group, or, with "", to channels of this process."""
        now = self._clock.now_or_origin()
        found: list[Arrival] = []
        for name, data, ttl in entries:
            if group:
                channels = self._roster.channels(name, now)
            else:
                channels = [name] if split(name)[0].endswith(self._names_end) else []
            opened = self._decrypt(data) if channels else None
            if opened is not None:
                found.append((channels, Message(0, opened, now + ttl, now), True))
        if found:
            self._stats.relay_received += len(found)
            self._availability.has_heard()
            self._deliver(self._arrivals.add(found))
