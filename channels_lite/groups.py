"""SEND, to groups: their members, as this process has last read them.

Facts: reading 500 members takes 0.6 ms, more than all else that a message to them takes; asking
SQLite whether the database has changed since, 5 us.
"""

from __future__ import annotations

from collections.abc import Hashable

from channels_lite.store import Execute, Store, sql

__all__ = ["Groups"]

# Groups remembered at most.
LIMIT = 1000


class Groups:
    """Asks the table only when it may answer something else than last time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version: Hashable = None
        #: Groups' members, and when the first of them expires.
        self._known: dict[str, tuple[float, list[sql.Member]]] = {}

    def members(self, execute: Execute, group: str, now: float) -> list[sql.Member]:
        """As `sql.group_members`; called within the store, as that is."""
        version = self._store.version()
        if version is None:
            return sql.group_members(execute, group, now)
        if version != self._version or len(self._known) >= LIMIT:
            self._version, self._known = version, {}
        until, members = self._known.get(group, (0.0, []))
        if now >= until:
            members = sql.group_members(execute, group, now)
            until = min((member.until for member in members), default=float("inf"))
            self._known[group] = until, members
        return members
