"""A link to the engine that is opened again whenever it is lost.

A link is up only when the engine has confirmed all subscriptions.  Until then, `Connection.do`
raises `StoreUnavailable` at once.  An engine that does not answer within `DEADLINE` counts as
unavailable, until its next answer.  After a few seconds without one, it is connected to again.

Thread: the relay's loop.  Other threads read whether it is up, and why not, and other loops use a
link that is shared (`Connection.use_here`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from channels_lite.errors import StoreUnavailable
from channels_lite.loops import running_loop
from channels_lite.relay import InDoubt, Link, Listener, Settings
from channels_lite.relay.deadline import DEADLINE, Countdown, Deadline

__all__ = ["Connection", "Owner"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between two pings; and the number of unanswered pings before it connects again.
PING_EVERY = 1.0
PINGS = 3
# Seconds between two attempts to connect: the first and the longest pause.
FIRST_RETRY, LAST_RETRY = 0.1, 0.5
# Seconds to wait after reconnecting.  In this time, the other processes reconnect, too, so that
# they receive what is sent afterwards.
GRACE = LAST_RETRY + 0.1
#: Why it is unavailable, at first; and while it does not answer.
NEVER = "it was not connected to yet"
LATE = f"it has not answered within {DEADLINE:.0f} s"


class Owner(Protocol):
    """What uses the connection."""

    async def subscriptions(self) -> list[str]:
        """The subjects to which a new link subscribes."""

    async def complete(self, link: Link) -> None:
        """Subscribes to what was added since `subscriptions`, so that the link can be used."""

    def has_tried(self) -> None:
        """The first attempt to connect has ended, or takes too long."""

    def has_come(self, link: Link) -> None:
        """The link is up."""

    def was_pinged(self) -> None:
        """The engine has answered the ping of each second."""


class Connection:
    """Owns the link, and the reason why there is none."""

    def __init__(
        self, settings: Settings, link: type[Link], listener: Listener, owner: Owner
    ) -> None:
        self._settings = settings
        self._link_class = link
        self._listener = listener
        self._owner = owner
        #: None: the engine is away.
        self.link: Link | None = None
        #: The same, or one that is being opened or closed.
        self._latest: Link | None = None
        self._is_suspect = False
        #: Set when the first attempt to connect has ended, or takes too long.
        self._tried: asyncio.Event | None = None
        #: Why the engine is unavailable; "" if it is available.
        self.reason = NEVER
        #: Seconds of the last round trip; the engine's name; the number of lost links.
        self.round_trip = 0.0
        self.engine = self.lack = ""
        self.losses = 0

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent now.  Any thread."""
        return self.link is not None and not self._is_suspect

    def use_here(self) -> bool:
        """Whether the link can be used on the running loop, which then reads, too.  Any thread."""
        link = self.link
        if link is None or self._is_suspect or running_loop() is None or not link.is_shared:
            return False
        link.use_here()
        return True

    @property
    def is_trying(self) -> bool:
        """Whether the first attempt to connect is under way."""
        return self.link is None and self._tried is not None and not self._tried.is_set()

    # Its life

    def begin(self, before: asyncio.Task[None] | None) -> Coroutine[Any, Any, None]:
        """What keeps a link open until it is cancelled; ``before`` is the previous one."""
        tried, self.reason = asyncio.Event(), NEVER
        self._tried = tried
        Countdown(partial(self._has_tried, tried))
        return self._run(before, tried)

    async def _run(self, before: asyncio.Task[None] | None, tried: asyncio.Event) -> None:
        if before is not None:
            await asyncio.wait([before])
        retry = FIRST_RETRY
        while True:
            try:
                if await self._use_link(tried):
                    retry = FIRST_RETRY
            except Exception as error:  # a fault of the link, which must not be its last one
                if self.reason != repr(error):
                    logger.error("the relay's connection has a fault", exc_info=error)
                self.reason = repr(error)
            await asyncio.sleep(retry)
            retry = min(2 * retry, LAST_RETRY)

    async def _use_link(self, tried: asyncio.Event) -> bool:
        """Opens a link, and returns when it is lost.  False: it could not be opened."""
        link = self._latest = self._link_class(self._settings, self._listener)
        try:
            if not await self._open(link):
                return False
            self._has_tried(tried)
            await self._watch(link)
            return True
        finally:
            self.link = None
            self._has_tried(tried)
            await self._close(link)

    def abandon(self) -> None:
        """In a forked child, abandons the parent's sockets."""
        if self._latest is not None:
            self._latest.abandon()

    async def _close(self, link: Link) -> None:
        """Closes a link to its end, also if this is cancelled meanwhile."""
        closing = asyncio.ensure_future(link.close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])
            raise

    async def _open(self, link: Link) -> bool:
        """Connects, and makes all subscriptions.  False if it cannot."""
        try:
            await link.open(await self._owner.subscriptions())
            if self.reason != NEVER:
                await asyncio.wait([link.lost], timeout=GRACE)
            # Groups that were joined in the meantime are subscribed before any send succeeds.
            async with Deadline():
                await self._owner.complete(link)
        except TimeoutError:
            self._is_away(LATE)
            return False
        except StoreUnavailable as error:
            self._is_away(str(error))
            return False
        if link.lost.done():
            self._is_away(link.lost.result())
            return False
        if self.reason != NEVER:
            logger.info("%s at %s is back", link.engine, self._settings.shown)
        if link.lack and link.lack != self.lack:
            logger.error("%s", link.lack)
        self.link, self.engine, self.lack = link, link.engine, link.lack
        self._is_suspect, self.reason = False, ""
        self._owner.has_come(link)
        return True

    def _is_away(self, reason: str) -> None:
        if self.reason in ("", NEVER):
            logger.warning(
                "the relay's engine at %s is away, so messages to other nodes are missed or "
                "refused until it is back: %s",
                self._settings.shown,
                reason,
            )
        elif reason != self.reason:
            logger.info("the relay's engine at %s is still away: %s", self._settings.shown, reason)
        self.reason = reason

    def _has_tried(self, tried: asyncio.Event) -> None:
        if not tried.is_set():
            tried.set()
            self._owner.has_tried()

    async def _watch(self, link: Link) -> None:
        """Pings the engine each second, until the link is lost."""
        unanswered = 0
        while unanswered < PINGS:
            await asyncio.wait([link.lost], timeout=PING_EVERY)
            if link.lost.done():
                break
            if await self._ping(link):
                unanswered = 0
                self._owner.was_pinged()
            else:
                unanswered += 1
        self.link = None
        self.losses += 1
        late = f"it has not answered for {PINGS * DEADLINE:.0f} s"
        self._is_away(link.lost.result() if link.lost.done() else late)

    async def _ping(self, link: Link) -> bool:
        began = time.monotonic()
        try:
            async with Deadline():
                await link.ping()
        except TimeoutError:
            self._is_suspect = True
            return False
        except StoreUnavailable:
            return False  # the link is lost
        self.round_trip = time.monotonic() - began
        self._is_suspect = False
        return True

    # Its use

    def answered(self, *, in_time: bool) -> None:
        """The engine has answered a publish, or has not."""
        self._is_suspect = not in_time

    def require_link(self) -> Link:
        """The link, for a request.  Raises ``StoreUnavailable``."""
        link = self.link
        if link is None or self._is_suspect:
            raise self.away()
        return link

    async def wait(self) -> None:
        """Waits for the first attempt to connect, at most `DEADLINE`."""
        if self._tried is not None and self.link is None:
            await self._tried.wait()

    async def do(self, verb: Callable[[Link], Awaitable[T]]) -> T:
        """Awaits a method of the link.  Raises ``StoreUnavailable`` within `DEADLINE`."""
        try:
            return await self._do(verb)
        except TimeoutError:
            self._is_suspect = True
            raise self.in_doubt() from None

    async def ask(self, subject: str, payload: bytes) -> bytes | None:
        """Asks a process.  None: there is none.  Raises ``StoreUnavailable`` within `DEADLINE`.

        A process that does not answer says nothing about the engine.
        """
        try:
            return await self._do(lambda link: link.ask(subject, payload))
        except TimeoutError:
            raise InDoubt(
                f"the other process has not answered within {DEADLINE:.0f} s, because it is busy "
                "or was stopped; it may still do it"
            ) from None

    async def _do(self, verb: Callable[[Link], Awaitable[T]]) -> T:
        await self.wait()
        link = self.require_link()
        try:
            async with Deadline():
                return await verb(link)
        except StoreUnavailable:
            if link.lost.done():
                raise self.in_doubt() from None
            raise

    def away(self) -> StoreUnavailable:
        """The error of a request that was not sent."""
        reason = self.reason or LATE
        return StoreUnavailable(
            f"the relay's engine at {self._settings.shown} is away: {reason}; messages on this "
            "node are still delivered"
        )

    def in_doubt(self) -> InDoubt:
        """The error of one that was sent, and not answered."""
        return InDoubt(f"{self.away()}; it may have been done all the same")
