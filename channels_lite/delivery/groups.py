"""SEND, to groups: their members, as this process last read them.

Facts: reading 500 members takes 0.4 ms, more than the rest of a message to them, and 5000 take
4 ms.  Asking SQLite whether the database has changed since takes 3 us.  Reading the group's
version, from a table that triggers keep, takes 7 us more.  A database changes all the time: with
each message that is a row, and with the project's own tables.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace

from channels_lite.store import Execute, Store, sql

__all__ = ["Groups"]

#: The maximum number of remembered groups; those used last are kept.
LIMIT = 1000


@dataclass(frozen=True, slots=True)
class _Known:
    members: list[sql.Member]
    #: When the first of them expires.
    until: float
    #: The versions of schema and group when they were read; None: no triggers or no version.
    version: tuple[int, int] | None
    #: The version of the database at the last check; None: the store does not know it.
    database: Hashable


class Groups:
    """The members of groups, read again only if they may have changed.

    Owns the remembered lists, under a lock that is not held during statements: any thread of the
    store may call it.  The versions of a list are read before the list, so a change in between is
    noticed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        #: By group; the one used last is at the end.
        self._known: OrderedDict[str, _Known] = OrderedDict()
        #: A version of the schema, and whether it has the triggers.
        self._schema = (-1, False)

    def members(self, execute: Execute, group: str, now: float) -> list[sql.Member]:
        """Like `sql.group_members`, and also called within the store."""
        database = self._store.version()
        known = self._recall(group)
        if known is not None and now >= known.until:
            known = None
        if known is not None and database is not None and database == known.database:
            return known.members
        version = self.version(execute, group)
        if known is not None and version is not None and version == known.version:
            known = replace(known, database=database)
        else:
            members = sql.group_members(execute, group, now)
            until = min((member.until for member in members), default=float("inf"))
            known = _Known(members, until, version, database)
        if version is not None or database is not None:  # else a change could not be noticed
            self._remember(group, known)
        return known.members

    def members_of(
        self, execute: Execute, group: str, now: float
    ) -> tuple[list[sql.Member], int | None]:
        """The members, and the group's version before they were read.

        Saves the check of the database, for a write, which has changed it anyway.
        """
        version = self.version(execute, group)
        known = self._recall(group)
        if known is None or version is None or version != known.version or now >= known.until:
            return self.members(execute, group, now), version and version[1]
        return known.members, version[1]

    def version(self, execute: Execute, group: str) -> tuple[int, int] | None:
        """A value that never recurs after a membership of the group has changed.

        It includes the schema's version, because restored triggers do not know earlier changes.
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
