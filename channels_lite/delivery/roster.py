"""RELAY: which groups have members in this process, so that it hears what other nodes send them.

The table is what counts on the node; this is the same, as far as this process's own channels are
concerned, for who is told of a message by the engine must not have to ask the database.

Thread: any.  One lock guards it all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

__all__ = ["Roster"]


class Roster:
    """The members by group, each with the time at which its membership ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[str, dict[str, float]] = {}

    def add(self, group: str, channel: str, until: float) -> None:
        """A channel of this process is a member."""
        with self._lock:
            self._members.setdefault(group, {})[channel] = until

    def discard(self, group: str, channel: str) -> None:
        """It is none any more."""
        with self._lock:
            members = self._members.get(group, {})
            members.pop(channel, None)
            if not members:
                self._members.pop(group, None)

    def channels(self, group: str, now: float) -> list[str]:
        """The members that a message to the group is for."""
        with self._lock:
            members = self._members.get(group)
            if not members:
                return []
            return [channel for channel, until in members.items() if until > now]

    def groups(self) -> set[str]:
        """Those that have members here."""
        with self._lock:
            return set(self._members)

    def has_members(self, group: str) -> bool:
        """Whether it is one of them."""
        return group in self._members

    def forget_expired(self, now: float) -> None:
        """Drops the memberships that have ended."""
        with self._lock:
            for group, members in list(self._members.items()):
                live = {channel: until for channel, until in members.items() if until > now}
                if live:
                    self._members[group] = live
                else:
                    del self._members[group]

    def replace(self, memberships: Iterable[tuple[str, str, float]]) -> None:
        """The table has these."""
        members: dict[str, dict[str, float]] = {}
        for group, channel, until in memberships:
            members.setdefault(group, {})[channel] = until
        with self._lock:
            self._members = members
