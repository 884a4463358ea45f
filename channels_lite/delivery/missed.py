"""Messages that full channels missed: counted and logged.

A full member of a group misses the message, as the specification requires, and no exception is
raised.  So each cause is logged once, and again after a minute with the count.  A cause is the
process that does not read, and the prefix of its channels, however many groups they are in.

Thread: any.  One lock guards the counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from channels_lite import signals
from channels_lite.delivery.capacity import Limit
from channels_lite.delivery.stats import Stats
from channels_lite.names import split

__all__ = ["Missed"]

logger = logging.getLogger(__name__)

#: Seconds between two warnings for one cause.
EVERY = 60.0
#: The maximum number of remembered causes.
CAUSES = 100


class Missed:
    """Messages missed since the last warning, by cause."""

    def __init__(self, database: str, limit: Callable[[str], Limit | None], stats: Stats) -> None:
        self._database = database
        self._limit = limit
        self._stats = stats
        self._lock = threading.Lock()
        #: By cause: the number since the last warning, and its time by ``time.monotonic()``.
        self._counts: dict[str, tuple[int, float]] = {}

    def by_channels(self, channels: Sequence[str]) -> None:
        """Full channels of this process missed a message of a group."""
        self._stats.full += len(channels)
        example = channels[-1]
        name = split(example)[0]
        prefix = name.rpartition(".")[0] or name
        count = self._count(name, len(channels))
        if count:
            logger.warning(
                "%d group messages were missed by full channels, for example by %s, which holds "
                '%s; to hold more messages, set CONFIG["channel_capacity"] = {"%s*": ...}',
                count,
                example,
                self._limit(example),
                prefix,
            )

    def by_group(self, group: str, count: int, example: str) -> None:
        """Members of ``group`` missed a message that this process has sent."""
        self._stats.full += count
        signals.send(signals.channel_full, self._database, channel=None, group=group, count=count)
        name = split(example)[0]
        count = self._count(f"sent to {name}", count)
        if count:
            logger.warning(
                "%d group messages, for example of %s, were missed by members that are full, or "
                "whose process does not read, for example on %s, where each holds %s; to hold more "
                'messages, set CONFIG["channel_capacity"] = {"%s*": ...}',
                count,
                group,
                example,
                self._limit(example),
                name.rpartition(".")[0] or name,
            )

    def _count(self, cause: str, count: int) -> int:
        """Adds them.  Returns the number to log now, or 0."""
        now = time.monotonic()
        with self._lock:
            if cause not in self._counts and len(self._counts) >= CAUSES:
                kept = {each: last for each, last in self._counts.items() if now - last[1] < EVERY}
                self._counts = kept
                if len(kept) >= CAUSES:
                    cause = ""  # too many causes to count them separately
            missed, said_at = self._counts.get(cause, (0, now - EVERY))
            missed += count
            is_due = now - said_at >= EVERY
            self._counts[cause] = (0, now) if is_due else (missed, said_at)
        return missed if is_due else 0
