"""Which groups a process hears from other nodes: those that have members here, or soon may.

Who joins is subscribed before ``group_add()`` returns, and the engine has said so; who leaves is
taken out soon.  A new link is subscribed to all of it at once.

Thread: the relay's loop, but for what says "any thread".  One lock guards what senders ask.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Link
from channels_lite.relay.host import Host

__all__ = ["Subscriptions"]

# Seconds for which a transaction may still be committed in which somebody joined a group.
TRANSACTION = 60.0


class Subscriptions:
    """What is subscribed to, and what is about to be."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._subscribed: set[str] = set()
        #: Groups that somebody is about to join, and how often.
        self._entering: Counter[str] = Counter()
        #: By group, that one change of its subscription comes after the other.
        self._changing = _Locks()
        self._is_settling = self._must_settle = False

    def is_subscribed(self, group: str, *, enters: bool) -> bool:
        """Whether it is; then with ``enters`` it stays so until `entered`.  Any thread."""
        with self._lock:
            is_subscribed = group in self._subscribed
            if is_subscribed and enters:
                self._entering[group] += 1
        return is_subscribed

    def entered(self, group: str) -> None:
        """Who entered is a member now, or is not going to be one.  Any thread."""
        with self._lock:
            self._entering[group] -= 1
            if not self._entering[group]:
                del self._entering[group]
        if not self._host.receiver.has_members(group):
            self.left(group)

    def left(self, group: str) -> None:
        """It has no members here any more.  Any thread."""
        if self._host.is_started and self.is_subscribed(group, enters=False):
            self._host.soon(self.settle_soon)

    def hold(self, group: str) -> None:
        """As `entered`, for a transaction that may still be committed.  Any thread."""
        self._host.soon(partial(self._hold, group))

    def _hold(self, group: str) -> None:
        asyncio.get_running_loop().call_later(TRANSACTION, self.entered, group)

    def begin(self, groups: set[str]) -> None:
        """A link is subscribed to these, and to no others."""
        with self._lock:
            self._subscribed = set(groups)

    async def add_missing(self, link: Link) -> None:
        """Subscribes a link that is not in use yet to what has come since it was begun."""
        while missing := self.wanted() - self._subscribed:
            for group in missing:
                await link.subscribe(self._host.subjects.group(group))
                with self._lock:
                    self._subscribed.add(group)

    async def enter(self, group: str) -> None:
        """Somebody of this process is about to join: `entered` tells what became of it.

        Subscribed when it returns; or when the engine is back, if it is away.
        """
        with self._lock:
            self._entering[group] += 1
        with suppress(StoreUnavailable):
            await self._subscribe(group)

    async def _subscribe(self, group: str) -> None:
        await self._host.wait()
        if self._host.link is None:
            return  # a new one is subscribed to it
        async with self._changing.of(group):
            if group not in self._subscribed:
                await self._host.do(lambda link: link.subscribe(self._host.subjects.group(group)))
                with self._lock:
                    self._subscribed.add(group)

    def wanted(self) -> set[str]:
        """Groups with members here, and those that somebody is about to join."""
        with self._lock:
            entering = set(self._entering)
        return self._host.receiver.groups() | entering

    def settle_soon(self) -> None:
        """Has it done what is wanted."""
        self._must_settle = True
        if not self._is_settling:
            self._host.keep(self._settle())

    async def _settle(self) -> None:
        """Subscribes to what is wanted, and to nothing else, as far as it can be done now."""
        self._is_settling, self._must_settle = True, True
        try:
            while self._must_settle:  # who leaves meanwhile is in the next round, with all others
                self._must_settle = False
                wanted, have = self.wanted(), set(self._subscribed)
                for group in wanted - have:
                    await self._subscribe(group)
                for group in have - wanted:
                    await self._unsubscribe(group)
        except StoreUnavailable:
            pass  # the relay's clock tries again
        finally:
            self._is_settling = False

    async def _unsubscribe(self, group: str) -> None:
        if self._host.link is None:
            return
        async with self._changing.of(group):
            with self._lock:
                is_wanted = group in self._entering or self._host.receiver.has_members(group)
                if is_wanted or group not in self._subscribed:
                    return
                self._subscribed.discard(group)
            await self._host.do(lambda link: link.unsubscribe(self._host.subjects.group(group)))


class _Locks:
    """One lock for each name, as long as somebody needs it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Alone with this name."""
        lock, count = self._locks.get(name) or (asyncio.Lock(), 0)
        self._locks[name] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            lock, count = self._locks[name]
            if count > 1:
                self._locks[name] = lock, count - 1
            else:
                del self._locks[name]
