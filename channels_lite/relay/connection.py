"""A layer's connection to the engine, with its subscriptions and its publishes.

It connects at the first use, and again when the link is lost.  The posts of one loop iteration are
published together, and are done when the engine has them.  A link is up only when the engine has
confirmed all subscriptions.  Until then, a send to another node raises `StoreUnavailable` at once.
An engine that does not answer within `DEADLINE` counts as unavailable, until its next answer.
After a few seconds without an answer, the relay connects again.

Thread: the one of `thread`, except where a docstring says "any thread".  One lock guards the posts
of senders, and the set of subscribed groups.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from channels.exceptions import MessageTooLarge

from channels_lite.errors import StoreUnavailable
from channels_lite.loops import PER_ITERATION, running_loop
from channels_lite.relay import DEADLINE, InDoubt, Link, Settings
from channels_lite.relay.flushes import Flushes
from channels_lite.relay.host import Receiver
from channels_lite.relay.node import node_of
from channels_lite.relay.posts import Post, pack, size_of
from channels_lite.relay.subscriptions import Subscriptions
from channels_lite.relay.thread import relay_loop
from channels_lite.relay.wanted import Wanted
from channels_lite.relay.wire import (
    OVERHEAD,
    Answer,
    Copied,
    Entry,
    Flushed,
    Heard,
    Hello,
    Membership,
    Message,
    Messages,
    Subjects,
    Unreadable,
    decode,
    encode,
)

__all__ = ["Relay"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between two pings; and the number of unanswered pings before the relay connects again.
PING_EVERY = 1.0
PINGS = 3
# Seconds between two attempts to connect: the first and the longest pause.
FIRST_RETRY, LAST_RETRY = 0.1, 0.5
# Seconds to wait after reconnecting.  In this time, the other processes reconnect, too, so that
# they receive what is sent afterwards.
GRACE = LAST_RETRY + 0.1
#: Why it is unavailable, at first.
NEVER = "it was not connected to yet"


class Relay:
    """The connection of one layer.  `start` may be called at each use."""

    #: Set before the first use.
    receiver: Receiver

    def __init__(self, settings: Settings, link: type[Link]) -> None:
        self._settings = settings
        self._link_class = link
        self.token = settings.token
        self.node = node_of(settings.token)
        self.subjects = Subjects(settings.prefix)
        self._lock = threading.Lock()
        self._posts: list[Post] = []
        self._is_waking = False
        self.groups = Subscriptions(self)
        self.jobs = Wanted(self)
        self.flushes = Flushes(self)
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        #: None: the engine is away.
        self.link: Link | None = None
        #: Set when the first attempt to connect has ended, or takes too long.
        self._tried: asyncio.Event | None = None
        self._is_started = False
        #: Set when the stopped connection has ended.
        self._ended = threading.Event()
        self._ended.set()
        self._is_suspect = self._says_hello = False
        #: Publishes that the engine has not confirmed, and other pending work.
        self._sent: set[asyncio.Future[Any]] = set()
        self._pending: set[asyncio.Future[Any]] = set()
        #: Work of committed transactions, to be done in order; and whether there is any.
        self._later: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self.is_behind = False
        self._catching_up: asyncio.Task[None] | None = None
        #: Why the engine is unavailable; "" if it is available.
        self.reason = NEVER
        #: A fault of this node, because of which no other node receives its messages.
        self.fault = ""
        #: Seconds of the last round trip; the engine's name; the number of lost links.
        self.round_trip = 0.0
        self.engine = self.lack = ""
        self.losses = 0

    # Any thread

    @property
    def is_started(self) -> bool:
        """Whether it has begun to connect."""
        return self._is_started

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent now."""
        return self.link is not None and not self._is_suspect

    def start(self) -> bool:
        """Connects, if it has not begun to.  False: no thread can be started.  Any thread."""
        if self._is_started:
            return True
        with self._lock:
            if self._is_started:
                return True
            try:
                loop = relay_loop()
            except RuntimeError as error:
                self.reason = str(error)
                return False
            self._is_started = True
        loop.call_soon_threadsafe(self._begin)
        return True

    async def publish(self, subject: str, entry: Entry, *, is_group: bool = False) -> list[str]:
        """Publishes one message.  Returns the plain channels of the group.  Any thread.

        Raises ``StoreUnavailable`` and ``MessageTooLarge``.
        """
        post = self.begin(subject, entry, is_group=is_group)
        return await self.finish(post)

    def begin(self, subject: str, entry: Entry, *, is_group: bool = False) -> Post:
        """Begins `publish`; `finish` waits for it.  Any thread."""
        self.require_room(entry)
        future = asyncio.get_running_loop().create_future()
        post = Post(subject, entry, is_group=is_group, future=future)
        self.post(post)
        return post

    async def finish(self, post: Post) -> list[str]:
        """Waits for what `begin` has begun."""
        if post.future is not None:
            await post.future
        if post.error is not None:
            raise post.error
        return post.members or []

    def require_room(self, entry: Entry) -> None:
        """Raises ``MessageTooLarge`` if the engine would refuse it.  Any thread."""
        link = self.link
        if link is not None and len(entry.data) + len(entry.name) + 2 * OVERHEAD > link.max_payload:
            raise self._too_large(entry, link)

    def _too_large(self, entry: Entry, link: Link) -> MessageTooLarge:
        return MessageTooLarge(
            f"{len(entry.data)} bytes, and {link.engine} takes {link.max_payload} at most: send "
            "less, or raise its limit"
        )

    def post(self, post: Post) -> None:
        """Publishes soon.  Any thread; posts of one thread stay in order."""
        if not self.start():
            _finish([post], self._away())
            return
        with self._lock:
            self._posts.append(post)
            must_wake, self._is_waking = not self._is_waking, True
        if must_wake:
            relay_loop().call_soon_threadsafe(self._flush)

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Awaits a coroutine function on the relay's loop.  Any thread."""
        if not self.start():
            raise self._away()
        loop = relay_loop()
        if running_loop() is loop:
            return await function(*args)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(*args), loop))

    def later(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs functions one after another, in order.  They must not raise.  Any thread."""
        if not self.start():
            return
        with self._lock:
            self._later.append(function)
            must_begin, self.is_behind = not self.is_behind, True
        if must_begin:
            relay_loop().call_soon_threadsafe(self._begin_to_catch_up)

    def _begin_to_catch_up(self) -> None:
        self._catching_up = self._spawn(self._catch_up)

    async def _catch_up(self) -> None:
        try:
            while function := self._next_later():
                await function()
        finally:
            if self.is_behind:  # one has failed; the others go on
                self._begin_to_catch_up()

    def _next_later(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        with self._lock:
            self.is_behind = bool(self._later)
            return self._later.popleft() if self._later else None

    async def caught_up(self) -> None:
        """Returns when the present functions of `later` are done."""
        if self._catching_up is not None:
            await asyncio.wait([self._catching_up])

    def stop(self, timeout: float = 0) -> None:
        """Publishes pending posts and ends.  `start` connects again.  Any thread."""
        with self._lock:
            is_started, self._is_started = self._is_started, False
        if not is_started:
            return
        loop, self._ended = relay_loop(), threading.Event()
        loop.call_soon_threadsafe(self._begin_to_end, self._ended)
        if timeout and running_loop() is not loop:
            self._ended.wait(timeout)

    def wait_for_end(self) -> None:
        """Returns when the stopped connection is closed.  Not on the relay's thread."""
        self._ended.wait(1.5 * DEADLINE)

    def abandon(self) -> None:
        """In a forked child, abandons the parent's sockets."""
        if self.link is not None:
            self.link.abandon()

    def soon(self, callback: Callable[[], object]) -> None:
        """Calls ``callback`` on the relay's loop, if there is one.  Any thread."""
        if self.start():
            relay_loop().call_soon_threadsafe(callback)

    # The link

    def _begin(self) -> None:
        self._tried = asyncio.Event()
        self._task = self.keep(self._run(self._task))
        asyncio.get_running_loop().call_later(DEADLINE, self._has_tried, self._tried)

    def keep(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs ``coroutine`` on the relay's loop.  Call it there."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the relay has a fault", exc_info=task.exception())
            self.reason = self.reason or repr(task.exception())

    async def _run(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        retry = FIRST_RETRY
        while True:
            link = self._link_class(self._settings, self)
            try:
                if await self._open(link):
                    retry = FIRST_RETRY
                    await self._watch(link)
            finally:
                self.link = None
                self._has_tried(self._tried)
                await link.close()
            await asyncio.sleep(retry)
            retry = min(2 * retry, LAST_RETRY)

    async def _open(self, link: Link) -> bool:
        """Connects, and makes all subscriptions.  False if it cannot."""
        subjects = self.subjects
        try:
            self._says_hello = await self.receiver.prepare()
            groups = self.groups.wanted()
            await link.open(
                [
                    subjects.process(self.token),
                    subjects.node(self.node),
                    subjects.everybody(),
                    *map(subjects.group, groups),
                ]
            )
            self.groups.begin(groups)
            if self.reason != NEVER:
                await asyncio.wait([link.lost], timeout=GRACE)
            # Groups that were joined in the meantime are subscribed before any send succeeds.
            await self.groups.add_missing(link)
        except StoreUnavailable as error:
            self._is_away(str(error))
            return False
        if link.lost.done():
            self._is_away(link.lost.result())
            return False
        self._has_come(link)
        return True

    def _has_come(self, link: Link) -> None:
        if self.reason != NEVER:
            logger.info("%s at %s is back", link.engine, self._settings.shown)
        if link.lack and link.lack != self.lack:
            logger.error("%s", link.lack)
        self.link, self.engine, self.lack = link, link.engine, link.lack
        self._is_suspect, self.reason = False, ""
        self._has_tried(self._tried)
        self.jobs.tell_all()
        if not self._says_hello:
            return
        hello = encode(Hello(self.node, self.token))
        link.publish([(self.subjects.node(self.node), hello)], ()).add_done_callback(_ignore)

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

    def _has_tried(self, tried: asyncio.Event | None) -> None:
        if tried is not None and not tried.is_set():
            tried.set()
            self._flush()

    async def _watch(self, link: Link) -> None:
        """Pings the engine each second, until the link is lost."""
        unanswered = 0
        while True:
            await asyncio.wait([link.lost], timeout=PING_EVERY)
            if link.lost.done():
                reason = link.lost.result()
                break
            began = time.monotonic()
            ping = asyncio.ensure_future(link.ping())
            both: list[asyncio.Future[Any]] = [ping, link.lost]
            await asyncio.wait(both, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
            if ping.done() and ping.exception() is None:
                self.round_trip = time.monotonic() - began
                unanswered = 0
                self._is_suspect = False
                self.jobs.tell()
                self.groups.settle_soon()
            elif not link.lost.done():
                ping.cancel()
                unanswered += 1
                self._is_suspect = True
                if unanswered >= PINGS:
                    reason = f"it has not answered for {PINGS * DEADLINE:.0f} s"
                    break
        self.link = None
        self.losses += 1
        self._is_away(reason)

    def _begin_to_end(self, ended: threading.Event) -> None:
        self._flush()
        self.keep(self._end(self._task, ended))

    async def _end(self, task: asyncio.Task[None] | None, ended: threading.Event) -> None:
        try:
            under_way = self._sent | self._pending
            if under_way:
                await asyncio.wait(under_way, timeout=DEADLINE)
            while task is not None and not task.done():
                task.cancel()  # again, because before Python 3.12 wait_for() may swallow it
                await asyncio.wait([task], timeout=0.1)
            self.groups.begin(set())
        finally:
            ended.set()

    # Sending

    def _flush(self) -> None:
        with self._lock:
            if self.link is None and self._tried is not None and not self._tried.is_set():
                self._is_waking = False
                return  # `_has_tried` does it
            posts, self._posts = self._posts, []
            self._is_waking = False
        if not posts:
            return
        link = self.link
        if link is None or self._is_suspect:
            _finish(posts, self._away())
            return
        posts = self._without_large(posts, link)
        parcels = pack(posts)
        groups = list({post.entry.name for post in posts if post.members is not None})
        sent = link.publish([(each.subject, each.payload(self.node)) for each in parcels], groups)
        self._sent.add(sent)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(DEADLINE, self._is_late, posts)
        sent.add_done_callback(partial(self._published, posts, timer))

    def _without_large(self, posts: list[Post], link: Link) -> list[Post]:
        fitting = []
        for post in posts:
            if size_of(post) + OVERHEAD > link.max_payload:
                _finish([post], self._too_large(post.entry, link))
            else:
                fitting.append(post)
        return fitting

    def _published(
        self,
        posts: list[Post],
        timer: asyncio.TimerHandle,
        sent: asyncio.Future[dict[str, list[str]]],
    ) -> None:
        timer.cancel()
        self._sent.discard(sent)
        error = None
        if sent.cancelled() or sent.exception() is not None:
            error = self._in_doubt()
        else:
            self._is_suspect = False
            members = sent.result()
            for post in posts:
                if post.members is not None and post.entry.name in members:
                    post.members = members[post.entry.name]
        _finish(posts, error)

    def _is_late(self, posts: list[Post]) -> None:
        self._is_suspect = True
        _finish(posts, self._in_doubt())

    def _in_doubt(self) -> InDoubt:
        return InDoubt(f"{self._away()}; it may have been done all the same")

    def _away(self) -> StoreUnavailable:
        reason = self.reason or f"it has not answered within {DEADLINE:.0f} s"
        return StoreUnavailable(
            f"the relay's engine at {self._settings.shown} is away: {reason}; messages on this "
            "node are still delivered"
        )

    async def wait(self) -> None:
        """Waits for the first attempt to connect, at most `DEADLINE`."""
        if self._tried is not None:
            await self._tried.wait()

    async def do(self, verb: Callable[[Link], Awaitable[T]]) -> T:
        """Awaits a method of the link.  Raises ``StoreUnavailable`` within `DEADLINE`."""
        await self.wait()
        link = self.link
        if link is None or self._is_suspect:
            raise self._away()
        try:
            return await asyncio.wait_for(_awaited(verb(link)), DEADLINE)
        except (TimeoutError, asyncio.TimeoutError):
            self._is_suspect = True
            raise self._in_doubt() from None
        except StoreUnavailable:
            if link.lost.done():
                raise self._in_doubt() from None
            raise

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a function on the relay's loop.  It must not raise.  Any thread."""
        if self.start():
            relay_loop().call_soon_threadsafe(self._spawn, function)

    def _spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        task = self.keep(function())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        return task

    async def ask(self, asked: Membership, token: str) -> None:
        """Asks the process with this token to change one of its memberships.

        Returns when it has, or if there is no such process.  Raises ``StoreUnavailable``.
        """
        payload = encode(asked)
        answer = await self.do(lambda link: link.ask(self.subjects.process(token), payload))
        if answer is None:
            return
        try:
            answered = decode(answer)
        except Unreadable as error:
            raise StoreUnavailable(f"the process of {asked.channel} answered: {error}") from None
        if isinstance(answered, Answer) and answered.error:
            raise StoreUnavailable(f"the process of {asked.channel} says: {answered.error}")

    # What comes

    def came(self, subject: str, payload: bytes, reply: str) -> None:
        """See `Listener`."""
        try:
            message = decode(payload)
        except Unreadable as error:
            logger.error("an envelope from the relay to %s was dropped: %s", subject, error)
            return
        if isinstance(message, Messages):
            group = self.subjects.group_of(subject)
            if not group or message.node != self.node:  # otherwise this node has it already
                self.receiver.take(group, message.entries)
        else:
            self.keep(self._came(message, reply))

    async def _came(self, message: Message, reply: str) -> None:
        if isinstance(message, Membership):
            answer = encode(Answer(await self.receiver.change(message)))
            with suppress(StoreUnavailable):
                await self.do(lambda link: link.answer(reply, answer))
        elif isinstance(message, Flushed):
            await self.flushes.came(message)
        elif isinstance(message, Heard):
            self.flushes.heard(message)
        elif isinstance(message, Hello):
            await self._met(message.token)
        elif isinstance(message, Copied) and self.receiver.is_neighbour(self.token):
            self._is_copied()
            with suppress(StoreUnavailable):
                await self.do(lambda link: link.answer(reply, encode(Answer())))

    async def _met(self, token: str) -> None:
        """Checks that a process which claims to be of this node uses its database."""
        if token == self.token or self.receiver.is_neighbour(token):
            return
        # The process may have ended.  Only one that lives, and has its name, answers.
        copied, subject = encode(Copied(self.node)), self.subjects.process(token)
        with suppress(StoreUnavailable):
            if await self.do(lambda link: link.ask(subject, copied)) is not None:
                self._is_copied()

    def _is_copied(self) -> None:
        if not self.fault:
            self.fault = (
                f"another node has the same name, {self.node}, because one machine is a copy of "
                "the other, so neither receives the other's messages: delete the file that ends in "
                "-node beside the database on one of them, and restart its processes"
            )
            logger.error("%s", self.fault)

    def job_came(self, channel: str, data: bytes, ttl: float) -> None:
        """See `Listener`."""
        self.receiver.take_job(channel, data, ttl)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _ignore(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()


def _finish(posts: list[Post], error: Exception | None) -> None:
    """Tells the senders, with one call to each loop, a limited number in each iteration."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for post in posts:
        if post.is_done:
            continue
        post.is_done = True
        if error is not None:  # one error for each post, because each is raised elsewhere
            post.error = type(error)(*error.args)
        if post.future is not None:
            by_loop.setdefault(post.future.get_loop(), []).append(post.future)
        elif post.then is not None:
            post.then(post)
    for loop, futures in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_settle, loop, futures)


def _settle(loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[None]]) -> None:
    for future in futures[:PER_ITERATION]:
        if not future.done():
            future.set_result(None)
    if len(futures) > PER_ITERATION:
        loop.call_soon(_settle, loop, futures[PER_ITERATION:])
