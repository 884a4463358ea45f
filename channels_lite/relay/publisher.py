"""Publishes the posts of senders: those of one loop iteration together.

A post is done when the engine has it, or when it has not answered in time.

Thread: the relay's loop, except where a docstring says "any thread".  One lock guards the posts
that wait for the loop's next iteration.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from channels.exceptions import MessageTooLarge

from channels_lite.errors import StoreUnavailable
from channels_lite.loops import PER_ITERATION, settle
from channels_lite.relay import Link, Published
from channels_lite.relay.deadline import Countdown
from channels_lite.relay.host import Host
from channels_lite.relay.posts import Post, pack
from channels_lite.relay.wire import OVERHEAD, Entry

__all__ = ["Publisher"]


class Publisher:
    """Owns the posts, until they are done."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._posts: list[Post] = []
        self._is_waking = False
        #: Those of posts that are sent, and not done.
        self.under_way: set[asyncio.Future[None]] = set()

    def publish(
        self, subject: str, entry: Entry, *, is_group: bool = False
    ) -> Coroutine[Any, Any, list[str]]:
        """`begin` and `finish`, without a coroutine around them.  Any thread."""
        return self.finish(self.begin(subject, entry, is_group=is_group))

    def begin(self, subject: str, entry: Entry, *, is_group: bool = False) -> Post:
        """Publishes one message; `finish` waits for it.  Any thread.

        Raises ``MessageTooLarge``.
        """
        self.require_room(entry)
        future = asyncio.get_running_loop().create_future()
        post = Post(subject, entry, is_group=is_group, future=future)
        self.post(post)
        return post

    async def finish(self, post: Post) -> list[str]:
        """Waits for what `begin` has begun.  Returns the plain channels of the group.

        Raises ``StoreUnavailable`` and ``MessageTooLarge``.
        """
        if post.future is not None:
            await post.future
        if post.error is not None:
            raise post.error
        return post.members or []

    def require_room(self, entry: Entry) -> None:
        """Raises ``MessageTooLarge`` if the engine would refuse it.  Any thread."""
        link = self._host.connection.link
        if link is not None and len(entry.data) + len(entry.name) + 2 * OVERHEAD > link.max_payload:
            raise _too_large(entry, link)

    def post(self, post: Post) -> None:
        """Publishes soon.  Any thread; posts of one thread stay in order."""
        try:
            self._host.require_thread()
            self._host.budget.take(post.size)
        except StoreUnavailable as error:
            _tell([post], error)
            return
        with self._lock:
            self._posts.append(post)
            must_wake, self._is_waking = not self._is_waking, True
        if must_wake:
            self._host.soon(self.flush)

    def flush(self) -> None:
        """Publishes the posts that wait, unless the first attempt to connect is under way."""
        with self._lock:
            self._is_waking = False
            if self._host.connection.is_trying:
                return  # it is called again then
            posts, self._posts = self._posts, []
        if not posts:
            return
        try:
            link = self._host.connection.require_link()
        except StoreUnavailable as error:
            self._done(posts, error)
            return
        posts = self._without_large(posts, link)
        if not posts:
            return
        groups = list({post.entry.name for post in posts if post.members is not None})
        parcels = [(each.subject, each.payload(self._host.node)) for each in pack(posts)]
        sent = link.publish(parcels, groups)
        done = asyncio.get_running_loop().create_future()
        self.under_way.add(done)
        done.add_done_callback(self.under_way.discard)
        countdown = Countdown(partial(self._is_late, posts, done))
        sent.add_done_callback(partial(self._published, posts, done, countdown))

    def _without_large(self, posts: list[Post], link: Link) -> list[Post]:
        most = link.max_payload - OVERHEAD
        large = [post for post in posts if post.size > most]
        if not large:
            return posts
        for post in large:
            self._done([post], _too_large(post.entry, link))
        return [post for post in posts if post.size <= most]

    def _published(
        self,
        posts: list[Post],
        done: asyncio.Future[None],
        countdown: Countdown,
        sent: Published,
    ) -> None:
        countdown.cancel()
        settle(done)
        if sent.cancelled() or sent.exception() is not None:
            self._done(posts, self._host.connection.in_doubt())
            return
        self._host.connection.answered(in_time=True)
        members = sent.result() or {}
        if members:
            for post in posts:
                if post.members is not None and post.entry.name in members:
                    post.members = members[post.entry.name]
        self._done(posts, None)

    def _is_late(self, posts: list[Post], done: asyncio.Future[None]) -> None:
        settle(done)
        self._host.connection.answered(in_time=False)
        self._done(posts, self._host.connection.in_doubt())

    def _done(self, posts: list[Post], error: Exception | None) -> None:
        """These posts are done, except those that were before."""
        posts = [post for post in posts if not post.is_done]
        self._host.budget.give_back(sum(post.size for post in posts))
        _tell(posts, error)


def _too_large(entry: Entry, link: Link) -> MessageTooLarge:
    return MessageTooLarge(
        f"{len(entry.data)} bytes, and {link.engine} takes {link.max_payload} at most: send "
        "less, or raise its limit"
    )


def _tell(posts: list[Post], error: Exception | None) -> None:
    """Tells the senders, with one call to each loop, a limited number in each iteration."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for post in posts:
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
