"""HOOK and WAKE: how a receiver learns of a row, and what lies beside the database for it.

A waiter calls the layer's ``look`` when there may be something, and its ``tick`` at each interval,
which finds what no wake-up has told of.  ``poll`` knows the clock alone; ``listener`` sleeps on a
FIFO that ``csrc`` writes to, and has a ``poll`` beside it.  The
sending side, ``hooks``, is the same for all layers: each wakes those who listen.

Of `store` it imports only what finds the database file.  Runs on the loops that receive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Protocol

from channels_lite.wake.datagrams import Frame

__all__ = ["Waiter", "sign_of", "warn_once"]

# What was logged, and why, by any layer of this process.
_said: set[tuple[str, str]] = set()


def sign_of(channel: str) -> int:
    """The byte that wakes those that wait for a plain channel; see ``csrc/wakeup.h``."""
    return 2 + sum(channel.encode()) % 254


def warn_once(logger: logging.Logger, message: str, reason: str) -> None:
    """Logs ``message % reason``, unless another layer of this process has."""
    if (message, reason) not in _said:
        _said.add((message, reason))
        logger.warning(message, reason)


class Waiter(Protocol):
    """Makes the layer look, on the loops that it watches."""

    #: Why it polls; "" if it does not, for it is woken by a FIFO.
    reason: str

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """The loops that it wakes."""

    def watch(self, loop: asyncio.AbstractEventLoop) -> bool:
        """From now on looks are made on ``loop``, the running one.  True: they were not before."""

    @property
    def watched(self) -> Collection[asyncio.AbstractEventLoop]:
        """Those on which it tells of what other processes do."""

    def keep_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has the clock tick on ``loop``, the running one; no more, if nobody receives there."""

    def listen(self, channel: str) -> None:
        """Makes senders of a plain channel wake this process too."""

    def tidy(self, channels: set[str]) -> bool:
        """Called now and then: sees that it can still be reached, and for ``channels`` only.

        True: something was made anew, and the loops have to `watch` it.
        """

    def frames(self, limit: int | None = None) -> list[Frame]:
        """What other processes have handed over since the last call, in the order of sending.

        All of it; or about ``limit``, and the loop is told of the rest in its next iteration.
        """

    def stop_frames(self) -> None:
        """Leaves what they hand over unread, so that their sockets fill up."""

    def go_on_with_frames(self) -> None:
        """Reads it again."""

    def nudge(self) -> None:
        """After a commit of ours: looks, unless the wake-up comes by itself.  Any thread."""

    def close(self) -> None:
        """Stops, and takes this process's name away; ``watch`` starts it again."""

    def abandon(self) -> None:
        """In a forked child: lets go of what is the parent's."""
