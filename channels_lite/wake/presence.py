"""This process's name beside the database: by it others reach it, and know that it lives.

Every process that uses a layer on a file has one, from its first use on, whatever the layer: one
that polls is never woken by it, but its memberships and messages end when it is killed.

Thread: any.  One lock guards the FIFO and what lies beside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from channels_lite.wake.fifo import Fifo, RelayReport, Report, is_stale

__all__ = ["Presence"]

logger = logging.getLogger(__name__)

# Seconds between two reports at least.
REPORT_EVERY = 1.0
# Seconds after which a name is tried again that could not be made: it may have been the moment.
TRY_AGAIN = 10.0


class Presence:
    """The FIFO, or the reason why there is none."""

    def __init__(
        self,
        sidecar: Callable[[], Path],
        token: str,
        interval: Callable[[], float],
    ) -> None:
        self._sidecar = sidecar
        self._token = token
        #: Seconds until the next report at most.
        self._interval = interval
        self._lock = threading.Lock()
        self.fifo: Fifo | None = None
        #: Why this process cannot be reached; "" if it can.
        self.reason = ""
        self._try_again_at = 0.0
        self._last_report, self._reported_at = Report(), 0.0

    def open(self) -> bool:
        """Makes the name, if there is none.  False: it cannot be made, see ``reason``."""
        if self.fifo is not None:
            self.reason = ""
            return True
        with self._lock:
            if self.fifo is not None:
                return True
            if self.reason and not self.is_due:
                return False
            try:
                self.fifo = Fifo(self._sidecar(), self._token)
            except OSError as error:
                self._refuse(error)
                return False
            if self.reason:
                logger.info("this process has a name beside the database again")
            self.reason = ""
            self._reported_at = time.monotonic()
        return True

    @property
    def is_due(self) -> bool:
        """Whether what could not be made is to be tried again."""
        return time.monotonic() >= self._try_again_at

    def _refuse(self, error: OSError) -> None:
        self.reason = str(error)
        self._try_again_at = time.monotonic() + TRY_AGAIN

    def listen(self, channel: str) -> bool:
        """Adds a name for a plain channel.  False: it cannot be made."""
        try:
            with self._lock, suppress(FileNotFoundError):  # `tidy` will make it anew
                if self.fifo is not None:
                    self.fifo.link(channel)
        except OSError as error:  # a quota, say
            with self._lock:
                self._refuse(error)
            return False
        return True

    def tidy(self, channels: set[str]) -> Fifo | None:
        """Sees that it can still be reached, and on these plain channels only.

        Returns the former FIFO if it was made anew, for somebody had deleted it.
        """
        with self._lock:
            fifo = self.fifo
            if fifo is None:
                return None
            try:
                with suppress(FileNotFoundError):
                    if fifo.is_in_place():
                        fifo.keep(channels)
                        return None
            except OSError as error:  # another user's now
                self._refuse(error)
                return None
            logger.warning("the FIFO in %s is gone; making it anew", self._sidecar())
            self.fifo = None
        fifo.close()
        self.open()
        return fifo

    def report(self, received: int, full: int, relay: RelayReport | None = None) -> None:
        """Says so beside the FIFO, if there were any since the last time, or until then."""
        now = time.monotonic()
        with self._lock:
            if self.fifo is None or now - self._reported_at < REPORT_EVERY:
                return
            last = self._last_report
            rate = (received - last.received) / (now - self._reported_at)
            self._reported_at = now
            if rate or last.rate or full != last.full or relay != last.relay:
                until = now + 2 * max(REPORT_EVERY, self._interval())
                self._last_report = Report(received, rate, full, until, now, relay)
                self.fifo.report(self._last_report)

    def stale(self, every: float) -> set[str] | None:
        """Tokens of processes that were killed.

        None: another living process has asked for them less than ``every`` seconds ago.
        """
        fifo = self.fifo
        with suppress(OSError):  # `tidy` sees to that
            if fifo is not None:
                return fifo.stale() if fifo.takes_turn(every) else None
        return set()

    def remove_stale(self, tokens: Collection[str]) -> None:
        """Forgets them: nothing of theirs is left in the tables."""
        fifo = self.fifo
        with suppress(OSError):
            if fifo is not None:
                fifo.remove_stale(tokens)

    def are_others_alive(self) -> bool:
        """Whether any other process has a name, and reads it."""
        try:
            return any(
                path.name[0] not in ".@"
                and path.name != self._token
                and path.is_fifo()
                and not is_stale(path)
                for path in self._sidecar().iterdir()
            )
        except OSError:  # nobody has ever been here
            return False

    def mark(self, channel: str) -> None:
        """Tells senders that ``channel`` is full."""
        self._with_fifo(lambda fifo: fifo.mark(channel))

    def unmark(self, channel: str) -> None:
        """Tells senders that ``channel`` takes messages again."""
        self._with_fifo(lambda fifo: fifo.unmark(channel))

    def keep_marks(self, channels: set[str]) -> None:
        """Makes the marks of these channels anew, and removes all others."""
        self._with_fifo(lambda fifo: fifo.keep_marks(channels))

    def _with_fifo(self, change: Callable[[Fifo], None]) -> None:
        with self._lock, suppress(OSError):  # senders find out by what they may have on their way
            if self.fifo is not None:
                change(self.fifo)

    def close(self) -> Fifo | None:
        """Removes the names.  Returns the FIFO, whose descriptors loops may still watch."""
        with self._lock:
            fifo, self.fifo = self.fifo, None
            self.reason = ""
        if fifo is not None:
            fifo.close()
        return fifo

    def abandon(self) -> None:
        """In a forked child: closes the parent's descriptors, which would keep it alive."""
        if self.fifo is not None:
            self.fifo.abandon()
