"""RELAY: the groups that have members in this process, to which other nodes send messages.

On the node, the table decides.  This is a copy of the part about this process's own channels, so
that a message from the engine needs no query.

Thread: any.  One lock guards all state.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

__all__ = ["Roster"]


class Roster:
    """The members of each group, with the times at which their memberships end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[str, dict[str, float]] = {}
        #: Groups that were added or removed, until `take_changed`.
        self._changed: set[str] = set()

    def add(self, group: str, channel: str, until: float) -> None:
        """Adds a channel of this process."""
        with self._lock:
            if group not in self._members:
                self._members[group] = {}
                self._changed.add(group)
            self._members[group][channel] = until

    def discard(self, group: str, channel: str) -> None:
        """Removes it."""
        with self._lock:
            members = self._members.get(group)
            if members is not None:
                members.pop(channel, None)
                if not members:
                    self._remove(group)

    def _remove(self, group: str) -> None:
        del self._members[group]
        self._changed.add(group)

    def channels(self, group: str, now: float) -> list[str]:
        """The members of ``group``."""
        with self._lock:
            members = self._members.get(group)
            if not members:
                return []
            return [channel for channel, until in members.items() if until > now]

    def groups(self) -> set[str]:
        """The groups that have members here."""
        with self._lock:
            return set(self._members)

    def take_changed(self) -> set[str]:
        """The groups that were added or removed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def has_members(self, group: str) -> bool:
        """Whether ``group`` has members here."""
        return group in self._members

    def forget_expired(self, now: float) -> None:
        """Removes memberships that have ended."""
        with self._lock:
            for group, members in list(self._members.items()):
                live = {channel: until for channel, until in members.items() if until > now}
                if live:
                    self._members[group] = live
                else:
                    self._remove(group)

    def replace(self, memberships: Iterable[tuple[str, str, float]]) -> None:
        """Replaces all memberships by those from the table."""
        members: dict[str, dict[str, float]] = {}
        for group, channel, until in memberships:
            members.setdefault(group, {})[channel] = until
        with self._lock:
            self._changed |= self._members.keys() ^ members.keys()
            self._members = members
