"""Publishes the posts of senders: those of one iteration of a loop together.

The sender's loop publishes them if the link can be used there, and otherwise the relay's loop.  A
post is done when the engine has it, or when it has not answered in time.

Thread: any.  One lock guards the posts.  Another one is held while they are published.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any

from channels.exceptions import MessageTooLarge

from channels_lite.errors import StoreUnavailable
from channels_lite.loops import PER_ITERATION, call_on, resolve, running_loop
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
        #: Those that wait for the next iteration, by loop; None: the relay's.
        self._posts: dict[asyncio.AbstractEventLoop | None, list[Post]] = {}
        #: Held while posts are published, so that later ones come after them.
        self._flushing = threading.Lock()
        #: Those that are sent, and not done; and who waits for them.
        self._under_way: set[Post] = set()
        self._waiting: list[asyncio.Future[None]] = []

    def publish(
        self, subject: str, entry: Entry, *, is_group: bool = False
    ) -> Coroutine[Any, Any, list[str]]:
        """`begin` and `finish`, without a coroutine around them."""
        return self.finish(self.begin(subject, entry, is_group=is_group))

    def begin(self, subject: str, entry: Entry, *, is_group: bool = False) -> Post:
        """Publishes one message; `finish` waits for it.

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
        """Raises ``MessageTooLarge`` if the engine would refuse it."""
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
        loop = running_loop()
        is_near = self._host.connection.use_here()
        with self._lock:
            if None in self._posts or (not is_near and loop not in self._posts):
                loop = None  # also after those that came before the link
            posts = self._posts.get(loop)
            if posts is not None:
                posts.append(post)
                return
            self._posts[loop] = [post]
        if loop is None:
            self._host.soon(self.flush)
        else:
            loop.call_soon(self._flush, loop)

    def flush(self) -> None:
        """Publishes the posts of the relay's loop.  On its loop."""
        self._flush(None)

    def flush_all(self) -> None:
        """Publishes the posts of all loops, some of which may not run any more.  On its loop."""
        for loop in list(self._posts):
            self._flush(loop)

    def _flush(self, of: asyncio.AbstractEventLoop | None) -> None:
        """Publishes the posts of one loop, unless the first attempt to connect is under way."""
        with self._flushing:
            with self._lock:
                posts = self._posts.pop(of, [])
                if posts and self._host.connection.is_trying:
                    self._posts.setdefault(None, []).extend(posts)
                    return  # `flush` is called then
                self._under_way.update(posts)
            if not posts:
                return
            try:
                link = self._host.connection.require_link()
            except StoreUnavailable as error:
                self._done(posts, error)
                return
            posts = self._without_large(posts, link)
            if posts:
                self._publish(posts, link)

    def _publish(self, posts: list[Post], link: Link) -> None:
        groups = list({post.entry.name for post in posts if post.members is not None})
        parcels = [(each.subject, each.payload(self._host.node)) for each in pack(posts)]
        countdown = Countdown(partial(self._is_late, posts))
        sent = link.publish(parcels, groups)
        sent.add_done_callback(partial(self._published, posts, countdown))

    def _without_large(self, posts: list[Post], link: Link) -> list[Post]:
        most = link.max_payload - OVERHEAD
        large = [post for post in posts if post.size > most]
        if not large:
            return posts
        for post in large:
            self._done([post], _too_large(post.entry, link))
        return [post for post in posts if post.size <= most]

    def _published(self, posts: list[Post], countdown: Countdown, sent: Published) -> None:
        """The engine has answered, or the link is lost.  Any thread."""
        countdown.cancel()
        if sent.exception() is not None:
            self._done(posts, self._host.connection.in_doubt())
            return
        self._host.connection.answered(in_time=True)
        members = sent.result() or {}
        if members:
            for post in posts:
                if post.members is not None and post.entry.name in members:
                    post.members = members[post.entry.name]
        self._done(posts, None)

    def _is_late(self, posts: list[Post]) -> None:
        if any(not post.is_done for post in posts):
            self._host.connection.answered(in_time=False)
            self._done(posts, self._host.connection.in_doubt())

    def _done(self, posts: list[Post], error: Exception | None) -> None:
        """These posts are done, except those that were before.  Any thread."""
        with self._lock:
            posts = [post for post in posts if not post.is_done]
            for post in posts:
                post.is_done = True
        self._host.budget.give_back(sum(post.size for post in posts))
        _tell(posts, error)
        with self._lock:
            self._under_way.difference_update(posts)
            if self._under_way:
                return
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            resolve(future, None)

    async def drained(self) -> None:
        """Returns when no post is under way.  On its loop."""
        while True:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with self._lock:
                if not self._under_way:
                    return
                self._waiting.append(waiting)
            await waiting


def _too_large(entry: Entry, link: Link) -> MessageTooLarge:
    return MessageTooLarge(
        f"{len(entry.data)} bytes, and {link.engine} takes {link.max_payload} at most: send "
        "less, or raise its limit"
    )


def _tell(posts: list[Post], error: Exception | None) -> None:
    """Tells the senders, with one call to each loop, a limited number in each iteration."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for post in posts:
        if error is not None:  # one error for each post, because each is raised elsewhere
            post.error = type(error)(*error.args)
        if post.future is not None:
            by_loop.setdefault(post.future.get_loop(), []).append(post.future)
        elif post.then is not None:
            post.then(post)
    for loop, futures in by_loop.items():
        call_on(loop, _settle, loop, futures)


def _settle(loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[None]]) -> None:
    for future in futures[:PER_ITERATION]:
        if not future.done():
            future.set_result(None)
    if len(futures) > PER_ITERATION:
        loop.call_soon(_settle, loop, futures[PER_ITERATION:])
