"""RECEIVE, up to the mailbox: looks for rows, releases what was read, and tidies up.

Thread: looks begin on a loop and are delivered on whichever thread the store has; everything here
may be called from several loops at once.  A flag that names a loop counts only while that is open,
for loops are closed without a word.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from channels_lite.config import Config
from channels_lite.inbox import Inbox, running_loop
from channels_lite.serializers import BaseMessageSerializer, UndecodableMessage
from channels_lite.store import Execute, Outcome, Store, sql
from channels_lite.wake import Waiter

__all__ = ["Reader"]

logger = logging.getLogger(__name__)

# Seconds between reading rows and deleting them, and rows after which that is not waited for.
# They count against capacity until then: a quarter of it may be used up by them.
RELEASE_AFTER = 0.05
RELEASE_SHARE = 4
# Seconds between two steps of a sweep for what has expired, and rows a step.
EXPIRE_EVERY = 10.0
EXPIRE_STEP = 500


class Reader:
    """What a layer does to fill its inbox."""

    waiter: Waiter

    def __init__(
        self,
        store: Store,
        serializer: BaseMessageSerializer,
        config: Config,
        default_interval: float,
        wake: Callable[[set[str]], None],
    ) -> None:
        self._store = store
        self._serializer = serializer
        self._config = config
        self._default_interval = default_interval
        self._wake = wake
        self._next_expire = time.monotonic() + EXPIRE_EVERY
        self._sweeps = {"channels_lite_event": 0, "channels_lite_groupmembership": 0}

    def start(self, inbox: Inbox) -> None:
        """Begins, in this process; once more in a forked child."""
        self._inbox = inbox
        self._lock = threading.Lock()
        self._looking: asyncio.AbstractEventLoop | None = None
        self._look_again = False
        self._releasing: asyncio.AbstractEventLoop | None = None
        self._last_message = time.monotonic()
        self._last_error = ""

    def interval(self) -> float:
        """Seconds until the next look by the clock."""
        interval = self._config.polling_interval or (
            0.1 if self.waiter.reason else self._default_interval
        )
        idle = time.monotonic() - self._last_message
        return interval * (10 if idle > self._config.polling_idle_timeout else 1)

    def look(self) -> None:
        """Reads what waits for this process.  On a running loop; one at a time."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._looking is not None and not self._looking.is_closed():
                self._look_again = True
                return
            self._looking = loop
        asked = self._inbox.ask(time.time())
        self._store.submit(partial(sql.look, asked=asked), partial(self._looked, loop), write=False)

    def _looked(self, loop: asyncio.AbstractEventLoop, outcome: Outcome[sql.Looked]) -> None:
        again = False
        if outcome.error is not None:
            self._report(outcome.error)
        else:
            self._last_error = ""
            again = self._inbox.deliver(outcome.result(), time.time(), self._decrypt)
            dropped, self._inbox.dropped = self._inbox.dropped, 0
            if dropped:
                logger.info("%d messages of groups were missed by members over capacity", dropped)
        with self._lock:
            self._looking = None
            again, self._look_again = again or self._look_again, False
        if again:
            _soon(loop, self.look)
        if self._inbox.unreleased:
            self._last_message = time.monotonic()
            _soon(loop, partial(self.release_later, loop))

    def _report(self, error: BaseException) -> None:
        if isinstance(error, ImproperlyConfigured):
            self._inbox.fail(error)
        elif str(error) != self._last_error:
            logger.warning("looking for messages failed, and goes on: %s", error)
        self._last_error = str(error)

    def _decrypt(self, data: bytes) -> bytes | None:
        try:
            return self._serializer.decrypt(data)
        except UndecodableMessage as error:
            logger.error("a message was dropped: %s", error)
            return None

    def tick(self) -> bool:
        """Now and then: looks, and tidies up.  False if nobody waits for messages."""
        receiver = self._inbox.a_receiver()
        # In the receiver's context, in which its code finds its own connection: under Django's
        # TestCase the rows are in a transaction that no other one sees.
        (receiver.context.copy().run if receiver else _run)(self.look)
        now = time.time()
        self._inbox.sweep(now)
        self.waiter.tidy(self._inbox.plain_channels())
        self.release()
        if self._config.auto_trim and time.monotonic() >= self._next_expire:
            self._next_expire = time.monotonic() + EXPIRE_EVERY
            self._store.submit(partial(self.expire_step, now=now), _ignore, write=True)
        return receiver is not None

    def release_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """Soon, on ``loop``, or now if much has been read."""
        if self._inbox.unreleased * RELEASE_SHARE >= self._config.capacity:
            self.release()
        elif self._releasing is None or self._releasing.is_closed():
            self._releasing = loop
            loop.call_later(RELEASE_AFTER, self.release)

    def release(self) -> None:
        """Tells the table what this process is through with."""
        self._releasing = None
        through = self._inbox.to_release()
        if through:
            self._store.submit(
                partial(sql.release, through=through),
                partial(self._released, through),
                write=True,
            )

    def _released(self, through: sql.Release, outcome: Outcome[None]) -> None:
        if outcome.error is not None:
            self._inbox.restore(through)
        else:
            self._wake({name for name, _ in through.unclaimed})

    def expire_step(self, execute: Execute, now: float) -> int:
        """A step of the sweeps of both tables.  Returns how many rows were deleted."""
        deleted = 0
        for table, after in self._sweeps.items():
            count, self._sweeps[table] = sql.expire(execute, table, after, now, EXPIRE_STEP)
            deleted += count
        return deleted

    @property
    def is_swept(self) -> bool:
        """Whether the sweeps have reached the end of both tables."""
        return not any(self._sweeps.values())

    def leave(self) -> None:
        """At exit, or when the layer is gone: gives back what was claimed and not received."""
        self.waiter.close()
        with suppress(RuntimeError):  # no loop to wait for a lock on, or no thread any more
            self.release()
        self._store.close()


def _run(function: Callable[[], None]) -> None:
    function()


def _ignore(outcome: Outcome[Any]) -> None:
    """A sweep that failed is made up for by the next one."""


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        if running_loop() is loop:
            loop.call_soon(callback)
        else:
            loop.call_soon_threadsafe(callback)
    except RuntimeError:
        logger.debug("the loop was closed; the next one goes on")
