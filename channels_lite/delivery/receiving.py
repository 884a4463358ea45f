"""RECEIVE: a coroutine takes a message out of a mailbox, and waits until there is one.

Thread: the receiver's loop.  The mailboxes' lock guards what several loops share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from channels_lite.clock import Clock
from channels_lite.delivery.claims import Claims
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.generation import Generations
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.mailboxes import Mailboxes
from channels_lite.errors import ForeignChannel
from channels_lite.loops import PER_ITERATION
from channels_lite.names import split

__all__ = ["Receiving"]


class Arm(Protocol):
    """See `layers.engine.Engine.arm`."""

    def __call__(self, channel: str, loop: asyncio.AbstractEventLoop, *, is_new_name: bool) -> None:
        """A coroutine on ``loop`` begins to wait."""


class Receiving:
    """Receives messages, and counts those received in a row without waiting."""

    #: The loops that already learn of rows and flushes by other processes: see `wake.Waiter`.
    watched: Collection[asyncio.AbstractEventLoop]

    def __init__(
        self,
        *,
        token: str,
        clock: Clock,
        generations: Generations,
        mailboxes: Mailboxes,
        cursors: Cursors,
        claims: Claims,
        arm: Arm,
        arms_always: bool,
        mark: Callable[[], None],
    ) -> None:
        self._names_end = f"{token}!"
        self._clock = clock
        self._generations = generations
        self._mailboxes = mailboxes
        #: Takes the message for which the coroutine was called; None: another one was faster.
        self.take = mailboxes.take_from
        self._cursors = cursors
        self._claims = claims
        #: Makes sure that a coroutine which begins to wait is woken.
        self._arm = arm
        #: Whether also where the loop is watched and the name is known, as histories want it.
        self._arms_always = arms_always
        #: Tells senders which channels are full, and which no longer are.
        self._mark = mark
        #: Messages taken since other coroutines had a turn.
        self._taken = 0

    def stand_by(self, channel: str) -> asyncio.Future[None] | None:
        """Lets the running coroutine wait for a future; then it must `take`, or `leave`.

        None: something else comes first, which `receive` does.
        """
        mailboxes = self._mailboxes
        mailbox = mailboxes.get(channel)
        if (
            mailbox is None
            or not mailbox.is_served
            or mailbox.messages
            or mailbox.receivers
            or mailboxes.changed
            or self._clock.began_at is None
        ):
            return None
        self._taken = 0
        loop = asyncio.get_running_loop()
        receiver, is_first = mailboxes.wait(channel, loop)
        if is_first or self._arms_always or loop not in self.watched or "!" not in channel:
            self._prepare(channel, loop, receiver, is_new_name=False, is_first=is_first)
        return receiver

    async def receive(self, channel: str, require_valid: Callable[[str], object]) -> Message:
        """Returns the next message.  Raises what ``require_valid`` raises."""
        mailboxes = self._mailboxes
        mailbox = mailboxes.get(channel)
        is_new_name = False
        loop = asyncio.get_running_loop()
        if (
            mailbox is None
            or not mailbox.is_served
            or self._clock.began_at is None
            or self._taken >= PER_ITERATION
        ):
            is_new_name = await self._begin(channel, loop, require_valid)
            mailbox = mailboxes.get(channel)
        message = None
        if mailbox is not None and (mailbox.messages or mailbox.receivers):
            if loop not in self.watched:
                self._arm(channel, loop, is_new_name=is_new_name)
                await self._generations.hear_of_flush()
                is_new_name = self._is_new(channel)
            # A look that has just begun another generation has forgotten the clock.
            now = self._clock.now() or await self._generations.ask()
            message = mailboxes.take(channel, now)
            self._taken += 1
            if is_new_name and message is not None:
                self._arm(channel, loop, is_new_name=True)  # rows may wait, too
        if mailboxes.changed:
            self._mark()
        return message or await self.wait(channel, is_new_name=is_new_name)

    async def wait(
        self, channel: str, *, is_new_name: bool = False, keeps_place: bool = False
    ) -> Message:
        """Waits for the next message.

        With ``keeps_place``, the coroutine was called, but another one was faster, or looked into
        its hand.  It is in line again at once: while it did anything else, its message would have
        no receiver, and nobody would be called for it if the coroutine was cancelled.
        """
        mailboxes = self._mailboxes
        loop = asyncio.get_running_loop()
        message = None
        while message is None:
            receiver, is_first = mailboxes.wait(channel, loop, keeps_place=keeps_place)
            self._prepare(channel, loop, receiver, is_new_name=is_new_name, is_first=is_first)
            self._taken = 0
            is_new_name, keeps_place = False, True
            try:
                await receiver
            except BaseException:
                self.leave(channel, receiver)
                raise
            message = mailboxes.take_from(channel, receiver)
        return message

    def _prepare(
        self,
        channel: str,
        loop: asyncio.AbstractEventLoop,
        receiver: asyncio.Future[None],
        *,
        is_new_name: bool,
        is_first: bool,
    ) -> None:
        """Makes sure that the running coroutine, which is in line, is called."""
        try:
            # Until it was in line, the sweeper of another loop could forget the name.
            is_new_name |= is_first and self._own(channel)
            if is_new_name or self._arms_always or loop not in self.watched or "!" not in channel:
                self._arm(channel, loop, is_new_name=is_new_name)
        except BaseException:
            self.leave(channel, receiver)
            raise

    def leave(self, channel: str, receiver: asyncio.Future[None]) -> None:
        """The coroutine was cancelled: another one may take its message."""
        now = self._clock.now_or_origin()
        if self._mailboxes.leave(channel, receiver, now) and "!" not in channel:
            self._claims.requeue()

    async def _begin(
        self,
        channel: str,
        loop: asyncio.AbstractEventLoop,
        require_valid: Callable[[str], object],
    ) -> bool:
        """Checks the name, asks for the clock, and lets other coroutines run, if necessary.

        Returns whether the name is new.
        """
        require_valid(channel)
        is_new_name = self._is_new(channel)
        if self._clock.began_at is None:
            await self._generations.ask()
            is_new_name |= self._is_new(channel)
        if self._taken >= PER_ITERATION:
            self._arm(channel, loop, is_new_name=is_new_name)  # it may never have to wait
            is_new_name |= await self._yield_loop(channel)
        return is_new_name

    async def _yield_loop(self, channel: str) -> bool:
        """Lets other coroutines run.  Returns whether the name is new after that."""
        self._taken = 0
        await asyncio.sleep(0)
        return self._is_new(channel)

    def _is_new(self, channel: str) -> bool:
        """See `_own`.  Called again after each ``await`` before a coroutine waits there."""
        return not self._mailboxes.is_served(channel) and self._own(channel)

    def _own(self, channel: str) -> bool:
        """Registers the name as this process's.  Whether it is new: rows may wait already."""
        if "!" not in channel:
            return False
        name = split(channel)[0]
        if not name.endswith(self._names_end):
            raise ForeignChannel(
                f"{channel} belongs to another process or layer: only the layer that created a "
                "channel with new_channel() can receive on it"
            )
        return self._cursors.own(name)
