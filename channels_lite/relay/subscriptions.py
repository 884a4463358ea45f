"""The groups to which a process subscribes: those with members here.

A group is subscribed before a channel joins it.  A subscription without members ends soon.  A new
link makes all subscriptions at once.

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
        #: Groups whose subscription may have to begin or to end.
        self._unsettled: set[str] = set()
        #: Those to which the link subscribes that is opened now.
        self._opening: set[str] = set()
        #: Locks by group, so that changes of its subscription do not overlap.
        self._changing = _Locks()
        self._is_settling = False

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
        with self._lock:
            is_subscribed = group in self._subscribed
            if is_subscribed:
                self._unsettled.add(group)
        if is_subscribed and self._host.is_started:
            self._host.soon(self.settle_soon)

    def hold(self, group: str) -> None:
        """Like `entered`, for a transaction that may still be committed.  Any thread."""
        self._host.soon(partial(self._hold, group))

    def _hold(self, group: str) -> None:
        asyncio.get_running_loop().call_later(TRANSACTION, self.entered, group)

    # A new link

    def begin(self) -> list[str]:
        """The subjects to which a new link subscribes; `complete` follows."""
        self._opening = self._wanted()
        return [self._host.subjects.group(group) for group in self._opening]

    async def complete(self, link: Link) -> None:
        """Subscribes the new link to groups that were joined since `begin`, too."""
        with self._lock:
            self._subscribed = set(self._opening)
        while missing := self._wanted() - self._subscribed:
            for group in missing:
                await link.subscribe(self._host.subjects.group(group))
                with self._lock:
                    self._subscribed.add(group)

    def forget(self) -> None:
        """There is no link any more."""
        with self._lock:
            self._subscribed = set()

    def _wanted(self) -> set[str]:
        """Groups with members here, and those that channels are about to join."""
        with self._lock:
            entering = set(self._entering)
        return self._host.receiver.groups() | entering

    def _is_wanted(self, group: str) -> bool:
        return group in self._entering or self._host.receiver.has_members(group)

    # Changes

    async def enter(self, group: str) -> None:
        """Called before a channel of this process joins; `entered` follows.

        It subscribes before it returns, or, if the engine is unavailable, when it is back.
        """
        with self._lock:
            self._entering[group] += 1
        with suppress(StoreUnavailable):
            await self._settle_one(group)

    def settle_soon(self) -> None:
        """Begins to change the subscriptions of groups whose members have changed."""
        if not self._is_settling:
            self._is_settling = True
            self._host.keep(self._settle())

    async def _settle(self) -> None:
        try:
            while unsettled := self._take_unsettled():
                for group in list(unsettled):
                    await self._settle_one(group)
                    unsettled.discard(group)
        except StoreUnavailable:
            with self._lock:
                self._unsettled |= unsettled  # again with the next ping
        finally:
            self._is_settling = False

    def _take_unsettled(self) -> set[str]:
        changed = self._host.receiver.take_changed()
        with self._lock:
            unsettled, self._unsettled = self._unsettled, set()
        return unsettled | changed

    async def _settle_one(self, group: str) -> None:
        """Subscribes to ``group``, or unsubscribes from it, if it has to."""
        connection = self._host.connection
        await connection.wait()
        if connection.link is None:
            return  # the next link subscribes to what is wanted
        subject = self._host.subjects.group(group)
        async with self._changing.of(group):
            with self._lock:
                is_wanted, is_subscribed = self._is_wanted(group), group in self._subscribed
                if is_subscribed and not is_wanted:
                    self._subscribed.discard(group)
            if is_wanted and not is_subscribed:
                await connection.do(lambda link: link.subscribe(subject))
                with self._lock:
                    self._subscribed.add(group)
            elif is_subscribed and not is_wanted:
                await connection.do(lambda link: link.unsubscribe(subject))


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
