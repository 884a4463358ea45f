"""SEND, to groups: their members, as this process has last read them.

Facts: reading 500 members takes 0.4 ms, more than all else that a message to them takes, and 5000
take 4 ms.  Asking SQLite whether the database has changed since takes 3 us; and which version a
group has, by a table that triggers keep, 7 more.  A database changes all the time: with each
message that is a row, and with the project's own tables.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace

from channels_lite.store import Execute, Store, sql

__all__ = ["Groups"]

#: Groups remembered at most, those that were used last.
LIMIT = 1000


@dataclass(frozen=True, slots=True)
class _Known:
    members: list[sql.Member]
    #: When the first of them expires.
    until: float
    #: The schema's and the group's when they were read; None: triggers or version are not there.
    version: tuple[int, int] | None
    #: The database's when it was last asked for that; None: the store does not know.
    database: Hashable


class Groups:
    """The members of groups, read again only when they may be others than last time.

    Owns what is remembered of them, under a lock that is held for no statement: any thread of the
    store may ask.  Each list is remembered with versions that were asked for before it was read, so
    what is changed meanwhile is found to have changed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        #: By group, the one that was used last at the end.
        self._known: OrderedDict[str, _Known] = OrderedDict()
        #: A version of the schema, and whether it has the triggers.
        self._schema = (-1, False)

    def members(self, execute: Execute, group: str, now: float) -> list[sql.Member]:
        """As `sql.group_members`; called within the store, as that is."""
        database = self._store.version()
        known = self._recall(group)
        if known is not None and now >= known.until:
            known = None
        if known is not None and database is not None and database == known.database:
            return known.members
        version = self._version(execute, group)
        if known is not None and version is not None and version == known.version:
            known = replace(known, database=database)
        else:
            members = sql.group_members(execute, group, now)
            until = min((member.until for member in members), default=float("inf"))
            known = _Known(members, until, version, database)
        if version is not None or database is not None:  # else it cannot be told to be the same
            self._remember(group, known)
        return known.members

    def _version(self, execute: Execute, group: str) -> tuple[int, int] | None:
        """What does not come again once a membership of the group has changed.

        With the schema's, for triggers that are back do not tell what happened without them.
        """
        schema = sql.schema_version(execute)
        known, is_kept = self._schema
        if schema != known:
            is_kept = sql.are_versions_kept(execute)
            self._schema = schema, is_kept
        version = sql.group_version(execute, group) if is_kept else None
        return None if version is None else (schema, version)

    def _recall(self, group: str) -> _Known | None:
        with self._lock:
            if group in self._known:
                self._known.move_to_end(group)
            return self._known.get(group)

    def _remember(self, group: str, known: _Known) -> None:
        with self._lock:
            self._known[group] = known
            self._known.move_to_end(group)
            if len(self._known) > LIMIT:
                self._known.popitem(last=False)
