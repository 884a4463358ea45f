"""A layer's relay in one process: its connection, and the parts that use it.

Each part has its own state and lock.  This class begins and ends them, and calls into the loop of
`thread` on which they run.

Thread: any, except where a docstring says "on its loop".  One lock: it begins once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from channels_lite.loops import running_loop
from channels_lite.relay import Link, Settings
from channels_lite.relay.budget import Budget
from channels_lite.relay.committed import Committed
from channels_lite.relay.connection import Connection
from channels_lite.relay.envelopes import Envelopes
from channels_lite.relay.flushes import Flushes
from channels_lite.relay.host import Receiver
from channels_lite.relay.node import node_of
from channels_lite.relay.publisher import Publisher
from channels_lite.relay.subscriptions import Subscriptions
from channels_lite.relay.thread import relay_loop
from channels_lite.relay.wanted import Wanted
from channels_lite.relay.wire import Subjects

__all__ = ["Relay"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds to wait for the end.  Each message has a deadline of its own, so this is for many of them.
LAST = 10.0


class Relay:
    """See `host.Host`.  `start` may be called at each use."""

    #: Set before the first use.
    receiver: Receiver

    def __init__(self, settings: Settings, link: type[Link]) -> None:
        self.token = settings.token
        self.node = node_of(settings.token)
        self.subjects = Subjects(settings.prefix)
        self.budget = Budget()
        self.flushes = Flushes(self)
        self.envelopes = Envelopes(self, self.flushes)
        self.connection = Connection(settings, link, self.envelopes, self)
        self.publisher = Publisher(self)
        self.committed = Committed(self)
        self.groups = Subscriptions(self)
        self.jobs = Wanted(self)
        self._starting = threading.Lock()
        self.is_started = False
        #: Set when the stopped connection has ended.
        self._ended = threading.Event()
        self._ended.set()
        self._running: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Those that end before the connection does.
        self._finishing: set[asyncio.Future[Any]] = set()
        self._says_hello = False

    # Its life

    def start(self) -> bool:
        """Connects, if it has not begun to.  False: no thread can be started."""
        if self.is_started:
            return True
        with self._starting:
            if self.is_started:
                return True
            try:
                loop = relay_loop()
            except RuntimeError as error:
                self.connection.reason = str(error)
                return False
            self.is_started = True
        loop.call_soon_threadsafe(self._begin)
        return True

    def _begin(self) -> None:
        self._running = self.keep(self.connection.begin(self._running))

    def stop(self) -> None:
        """Publishes pending posts and ends.  `start` connects again."""
        with self._starting:
            is_started, self.is_started = self.is_started, False
        if not is_started:
            return
        self._ended = threading.Event()
        relay_loop().call_soon_threadsafe(self._begin_to_end, self._ended)

    def _begin_to_end(self, ended: threading.Event) -> None:
        self.publisher.flush_all()
        self.keep(self._end(self._running, ended))

    async def _end(self, running: asyncio.Task[None] | None, ended: threading.Event) -> None:
        try:
            if not self.is_started:  # otherwise the next connection publishes what waits
                await self.connection.wait()
                self.publisher.flush_all()
            await self._finished()
            while running is not None and not running.done():
                running.cancel()  # again, because before Python 3.12 wait_for() may swallow it
                await asyncio.wait([running], timeout=0.5)  # longer than a link takes to close
            self.groups.forget()
        finally:
            ended.set()

    async def _finished(self) -> None:
        """Returns when nothing is under way."""
        while True:
            await self.publisher.drained()
            await asyncio.sleep(0)  # what follows from the last post is queued before
            if not self._finishing:
                return
            await asyncio.wait(self._finishing)

    def wait_for_end(self) -> None:
        """Returns when the stopped connection is closed.  Not on the relay's thread."""
        if not self._ended.wait(LAST):
            logger.warning(
                "the relay's engine has not confirmed all messages within %.0f s, so other nodes "
                "may have missed some",
                LAST,
            )

    def abandon(self) -> None:
        """In a forked child, abandons the parent's sockets."""
        self.connection.abandon()

    # Calls into its loop

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Awaits a coroutine function on the relay's loop."""
        self.require_thread()
        self.connection.use_here()  # this loop turns while it waits, so it may read the answer
        loop = relay_loop()
        if running_loop() is loop:
            return await function(*args)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(*args), loop))

    async def call_link(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """`call`, on the running loop if the link can be used there."""
        self.require_thread()
        if self.connection.use_here():
            return await function(*args)
        return await self.call(function, *args)

    def near(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` now if the link can be used here, and otherwise soon on its loop."""
        if self.start() and self.connection.use_here():
            callback()
        else:
            self.soon(callback)

    def require_thread(self) -> None:
        """Starts.  Raises ``StoreUnavailable`` if it cannot."""
        if not self.start():
            raise self.connection.away()

    def soon(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` on the relay's loop, if there is one."""
        if self.start():
            relay_loop().call_soon_threadsafe(callback)

    def on_loop(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` on the relay's loop, in the order of the calls.  Starts nothing."""
        relay_loop().call_soon_threadsafe(callback)

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a function on the relay's loop, before it ends.  It must not raise."""
        self.soon(lambda: self.finish(function()))

    def finish(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``coroutine`` before it ends.  On its loop."""
        task = self.keep(coroutine)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        return task

    def keep(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs ``coroutine``.  On its loop."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the relay has a fault", exc_info=task.exception())
            self.connection.reason = self.connection.reason or repr(task.exception())

    # The parts, for the connection.  On its loop.

    async def subscriptions(self) -> list[str]:
        """See `connection.Owner`."""
        self._says_hello = await self.receiver.prepare()
        own = self.subjects.process(self.token), self.subjects.node(self.node)
        return [*own, self.subjects.everybody(), *self.groups.begin()]

    async def complete(self, link: Link) -> None:
        """See `connection.Owner`."""
        await self.groups.complete(link)

    def has_tried(self) -> None:
        """See `connection.Owner`."""
        self.publisher.flush()

    def has_come(self, link: Link) -> None:
        """See `connection.Owner`."""
        self.jobs.tell_all()
        self.receiver.came_back()
        if self._says_hello:
            self.envelopes.greet(link)

    def was_pinged(self) -> None:
        """See `connection.Owner`."""
        self.jobs.tell()
        self.groups.settle_soon()
        self.publisher.flush_all()
