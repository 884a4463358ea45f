"""HOOK and WAKE: how a receiver learns of a row, and the files beside the database for this.

A waiter calls the layer's ``look`` when there may be a row, and its ``tick`` at each interval,
which finds rows without a wake-up.  ``poll`` uses only a timer.  ``listener`` sleeps on a FIFO that
``csrc`` writes to, and also has a ``poll``.  The sending side, ``hooks``, is the same for all
layers: each wakes the processes that listen.

From `store` it imports only the location of the database file.  Runs on the receiving loops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Protocol

from channels_lite.wake.datagrams import Frame

__all__ = ["FLOOD_PAUSE", "Waiter", "sign_of", "warn_once"]

#: Seconds between two looks during a flood of a FIFO by another program.
FLOOD_PAUSE = 0.01
# Messages and reasons that any layer of this process has logged.
_said: set[tuple[str, str]] = set()


def sign_of(channel: str) -> int:
    """The byte that wakes the receivers on a plain channel; see ``csrc/wakeup.h``."""
    return 2 + sum(channel.encode()) % 254


def warn_once(logger: logging.Logger, message: str, reason: str) -> None:
    """Logs ``message % reason``, unless a layer of this process has already done so."""
    if (message, reason) not in _said:
        _said.add((message, reason))
        logger.warning(message, reason)


class Waiter(Protocol):
    """Makes the layer look, on the loops that it watches."""

    #: Why it polls; "" if it is woken by a FIFO instead.
    reason: str

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """The loops that it wakes."""

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Makes looks on ``loop``, the running one, from now on.  True: it did not before."""

    @property
    def watched(self) -> Collection[asyncio.AbstractEventLoop]:
        """The loops that learn of rows and flushes by other processes; always the same object."""

    def keep_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts only the timer of ``loop``, the running one."""

    def listen(self, channel: str, loop: asyncio.AbstractEventLoop) -> bool:
        """Makes senders of a plain channel wake ``loop``, the running one, too.

        Returns whether to claim at once; otherwise no row waits that will not wake it.
        """

    def tidy(self, channels: set[str]) -> bool:
        """Called regularly: keeps the process reachable, and only for ``channels``.

        True: something was created again, and the loops must `watch` it.
        """

    def frames(self, limit: int | None = None) -> list[Frame]:
        """Frames that other processes sent since the last call, in the order of sending.

        Returns all; or about ``limit``, and the loop learns of the rest in its next iteration.
        """

    def stop_frames(self) -> None:
        """Stops reading frames, so that the senders' sockets fill up."""

    def go_on_with_frames(self) -> None:
        """Reads frames again."""

    def nudge(self) -> None:
        """Call after a commit of this process: looks, unless it is woken anyway.  Any thread."""

    def close(self) -> None:
        """Stops, and removes this process's name.  ``watch`` starts it again."""

    def abandon(self) -> None:
        """In a forked child: abandons the parent's resources."""
