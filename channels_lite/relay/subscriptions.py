"""The groups to which a process subscribes: those that have members here, or soon may.

The engine confirms a subscription before ``group_add()`` returns.  A subscription without members
ends soon.  A new link makes all subscriptions at once.

Thread: the relay's loop, except where a docstring says "any thread".  One lock guards the state
that senders read.
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

# Seconds within which a transaction with a new membership may be committed.
TRANSACTION = 60.0


class Subscriptions:
    """Owns the subscribed groups, and those that channels are about to join."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._subscribed: set[str] = set()
        #: Groups that channels are about to join, and their number.
        self._entering: Counter[str] = Counter()
        #: Locks by group, so that changes of its subscription do not overlap.
        self._changing = _Locks()
        self._is_settling = self._must_settle = False

    def is_subscribed(self, group: str, *, enters: bool) -> bool:
        """Whether ``group`` is subscribed.  Any thread.

        With ``enters``, it stays subscribed until `entered`.
        """
        with self._lock:
            is_subscribed = group in self._subscribed
            if is_subscribed and enters:
                self._entering[group] += 1
        return is_subscribed

    def entered(self, group: str) -> None:
        """The channel that was about to join has joined, or will not.  Any thread."""
        with self._lock:
            self._entering[group] -= 1
            if not self._entering[group]:
                del self._entering[group]
        if not self._host.receiver.has_members(group):
            self.left(group)

    def left(self, group: str) -> None:
        """The group has no more members here.  Any thread."""
        if self._host.is_started and self.is_subscribed(group, enters=False):
            self._host.soon(self.settle_soon)

    def hold(self, group: str) -> None:
        """Like `entered`, for a transaction that may still be committed.  Any thread."""
        self._host.soon(partial(self._hold, group))

    def _hold(self, group: str) -> None:
        asyncio.get_running_loop().call_later(TRANSACTION, self.entered, group)

    def begin(self, groups: set[str]) -> None:
        """A new link is subscribed to these groups only."""
        with self._lock:
            self._subscribed = set(groups)

    async def add_missing(self, link: Link) -> None:
        """Subscribes a new link to groups that were joined since `begin`."""
        while missing := self.wanted() - self._subscribed:
            for group in missing:
                await link.subscribe(self._host.subjects.group(group))
                with self._lock:
                    self._subscribed.add(group)

    async def enter(self, group: str) -> None:
        """Called before a channel of this process joins; `entered` follows.

        It subscribes before it returns, or, if the engine is unavailable, when it is back.
        """
        with self._lock:
            self._entering[group] += 1
        with suppress(StoreUnavailable):
            await self._subscribe(group)

    async def _subscribe(self, group: str) -> None:
        await self._host.wait()
        if self._host.link is None:
            return  # the next link subscribes to it
        async with self._changing.of(group):
            if group not in self._subscribed:
                await self._host.do(lambda link: link.subscribe(self._host.subjects.group(group)))
                with self._lock:
                    self._subscribed.add(group)

    def wanted(self) -> set[str]:
        """Groups with members here, and those that channels are about to join."""
        with self._lock:
            entering = set(self._entering)
        return self._host.receiver.groups() | entering

    def settle_soon(self) -> None:
        """Begins to change the subscriptions, where needed."""
        self._must_settle = True
        if not self._is_settling:
            self._host.keep(self._settle())

    async def _settle(self) -> None:
        """Subscribes to the wanted groups, and unsubscribes from others, if it can now."""
        self._is_settling, self._must_settle = True, True
        try:
            while self._must_settle:  # the next round handles channels that leave in the meantime
                self._must_settle = False
                wanted, have = self.wanted(), set(self._subscribed)
                for group in wanted - have:
                    await self._subscribe(group)
                for group in have - wanted:
                    await self._unsubscribe(group)
        except StoreUnavailable:
            pass  # the relay tries again with each ping
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
    """One lock for each name, while it is in use."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Holds the lock of ``name``."""
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
