"""Batches messages for publishing: those to one subject at the same time are one parcel.

One sender's messages to one channel stay in order.  A channel belongs to one process, but may be in
any group.  So posts to different processes may be reordered, and a group post is a barrier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from channels_lite.relay.wire import OVERHEAD, Entry, Messages, encode

__all__ = ["Parcel", "Post", "pack"]

#: Bytes of a parcel of several messages, far below the limit of any engine.
ENOUGH = 256 * 1024


class Post:
    """One outgoing message, and its sender's future."""

    __slots__ = ("entry", "error", "future", "is_done", "members", "size", "subject", "then")

    def __init__(
        self,
        subject: str,
        entry: Entry,
        *,
        is_group: bool,
        future: asyncio.Future[None] | None = None,
        then: Callable[[Post], None] | None = None,
    ) -> None:
        self.subject = subject
        self.entry = entry
        #: The maximum number of bytes that it takes in a parcel.
        self.size = len(entry.name) + len(entry.data) + OVERHEAD
        #: The sender waits for it on its own loop.
        self.future = future
        #: If no sender waits, called on the thread that has read the answer.
        self.then = then
        self.is_done = False
        self.error: Exception | None = None
        #: The plain channels in the group; None if the message goes to a process.
        self.members: list[str] | None = [] if is_group else None


class Parcel:
    """The posts of one publish, all to one subject."""

    __slots__ = ("posts", "size", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.posts: list[Post] = []
        self.size = OVERHEAD

    def payload(self, node: str) -> bytes:
        """The bytes to publish."""
        return encode(Messages(node, [post.entry for post in self.posts]))


def pack(posts: Iterable[Post]) -> Sequence[Parcel]:
    """The parcels of these posts, in the order of publishing."""
    parcels: list[Parcel] = []
    open_ones: dict[str, Parcel] = {}
    is_of_groups = False
    for post in posts:
        is_group = post.members is not None
        if is_group != is_of_groups or (is_group and post.subject not in open_ones):
            open_ones.clear()
            is_of_groups = is_group
        parcel = open_ones.get(post.subject)
        if parcel is None or parcel.size + post.size > ENOUGH:
            parcel = open_ones[post.subject] = Parcel(post.subject)
            parcels.append(parcel)
        parcel.posts.append(post)
        parcel.size += post.size
    return parcels
