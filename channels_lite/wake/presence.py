"""This process's name beside the database: others reach it there, and see that it is alive.

Every process that uses a layer on a file has a name from its first use on, whatever the layer.  The
name never wakes a process that polls, but it lets others delete its memberships and messages when
it is killed.

Thread: any.  One lock guards the FIFO and the files beside it.
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

# Minimum seconds between two reports.
REPORT_EVERY = 1.0
# Seconds after which it retries to create a name, because the failure may have been temporary.
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
        #: Maximum seconds until the next report.
        self._interval = interval
        self._lock = threading.Lock()
        self.fifo: Fifo | None = None
        #: Why this process cannot be reached; "" if it can.
        self.reason = ""
        self._try_again_at = 0.0
        self._last_report, self._reported_at = Report(), 0.0

    def open(self) -> bool:
        """Creates the name, if there is none.  False: it cannot be created, see ``reason``."""
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
                logger.info("this process has its FIFO beside the database again")
            self.reason = ""
            self._reported_at = time.monotonic()
        return True

    @property
    def is_due(self) -> bool:
        """Whether to retry what could not be created."""
        return time.monotonic() >= self._try_again_at

    def _refuse(self, error: OSError) -> None:
        self.reason = str(error)
        self._try_again_at = time.monotonic() + TRY_AGAIN

    def listen(self, channel: str) -> bool:
        """Adds a name for a plain channel.  False: it cannot be created."""
        try:
            with self._lock, suppress(FileNotFoundError):  # `tidy` will create it again
                if self.fifo is not None:
                    self.fifo.link(channel)
        except OSError as error:  # a quota, say
            with self._lock:
                self._refuse(error)
            return False
        return True

    def tidy(self, channels: set[str]) -> Fifo | None:
        """Keeps the process reachable, and only on these plain channels.

        If the FIFO was deleted, creates a new one and returns the old one.
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
            except OSError as error:  # it belongs to another user now
                self._refuse(error)
                return None
            logger.warning("the FIFO in %s was deleted; creating it again", self._sidecar())
            self.fifo = None
        fifo.close()
        self.open()
        return fifo

    def report(self, received: int, full: int, relay: RelayReport | None = None) -> None:
        """Writes the figures beside the FIFO, if they have changed since the last report."""
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
        with suppress(OSError):  # `tidy` handles that
            if fifo is not None:
                return fifo.stale() if fifo.takes_turn(every) else None
        return set()

    def remove_stale(self, tokens: Collection[str]) -> None:
        """Removes their names, after everything of theirs in the tables is deleted."""
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
        except OSError:  # no process has created the directory yet
            return False

    def origin(self, boot_id: str) -> float | None:
        """When the ticks of this boot began, by the clock of processes here; None if unknown."""
        fifo = self.fifo
        return None if fifo is None else fifo.origin(boot_id)

    def keep_origin(self, boot_id: str, began_at: float) -> None:
        """Tells processes that begin a generation."""
        self._with_fifo(lambda fifo: fifo.keep_origin(boot_id, began_at))

    def mark(self, channel: str) -> None:
        """Tells senders that ``channel`` is full."""
        self._with_fifo(lambda fifo: fifo.mark(channel))

    def unmark(self, channel: str) -> None:
        """Tells senders that ``channel`` accepts messages again."""
        self._with_fifo(lambda fifo: fifo.unmark(channel))

    def keep_marks(self, channels: set[str]) -> None:
        """Creates missing marks of these channels, and removes all others."""
        self._with_fifo(lambda fifo: fifo.keep_marks(channels))

    def _with_fifo(self, change: Callable[[Fifo], None]) -> None:
        with self._lock, suppress(OSError):  # senders are still limited by what is on its way
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
        """In a forked child: closes the parent's descriptors, which would make it look alive."""
        if self.fifo is not None:
            self.fifo.abandon()
