"""Groups with a history: what a layer returns of them, and positions in them.

A position is the text of a message's ``history_id``: the id of its row, and a stamp of that very
row.  Ids may start again, after ``manage.py flush`` or where a file was restored from a backup.
The stamp tells such a row from the one that the client knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from channels_lite.errors import InvalidPosition

__all__ = ["MOST", "History", "Joined", "Limit", "Limits", "Position", "limits_of", "parse"]

# SQLite's integers have at most 19 digits.
POSITION = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
#: The largest integer of SQLite.
MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of ``group_add`` for a group with a history.  It is true if it is complete."""

    #: Whether all messages after ``after`` are still there; also true without ``after``.  If it is
    #: false, only new messages come, and the client must load its state anew.
    is_complete: bool
    #: From where messages come.  A client that has received none yet continues from here.
    position: str

    def __bool__(self) -> bool:
        return self.is_complete


@dataclass(frozen=True, slots=True)
class History:
    """The result of ``group_history``.  It is true if it is complete."""

    #: Each as its receivers get it, with ``history_id`` and ``history_group``, oldest first.
    messages: list[dict[str, Any]]
    #: Whether all messages after ``after`` were still there.  Without ``after``, always true.
    is_complete: bool
    #: Where these messages end.  Pass it to ``group_add`` or ``group_history`` to continue.
    position: str

    def __bool__(self) -> bool:
        return self.is_complete


class Position(NamedTuple):
    """A place in the history of a group: after the row with this id and stamp."""

    id: int
    #: Microseconds since 1970 at which the row was made; for id 0, at which the history began.
    stamp: int

    def __str__(self) -> str:
        return f"{self.id}-{self.stamp}"


def parse(text: object) -> Position:
    """The position of a ``history_id``.  Raises ``InvalidPosition``."""
    if not isinstance(text, str) or not POSITION.fullmatch(text):
        raise InvalidPosition(f"{text!r:.100} is not the history_id of a message")
    position = Position(*map(int, text.split("-")))
    if max(position) > MOST:
        raise InvalidPosition(f"{text} is not the history_id of a message")
    return position


class Limit(NamedTuple):
    """How much of a group is kept."""

    messages: int
    seconds: float


#: The limit of a group by its name; None: it has no history.
Limits = Callable[[str], Limit | None]


def limits_of(
    patterns: Sequence[tuple[re.Pattern[str], Mapping[str, Any]]],
) -> Limits:
    """Looks up ``group_history``; the first pattern that matches applies."""
    known = [(pattern, Limit(**limit)) for pattern, limit in patterns]

    def limit_of(group: str) -> Limit | None:
        for pattern, limit in known:
            if pattern.match(group):
                return limit
        return None

    return limit_of
