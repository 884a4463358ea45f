"""What is to be published, put together: what goes to one subject at the same time is one parcel.

One sender's messages to one channel stay in order.  A channel is of one process, but may be in any
group; so what goes to processes may change places among itself, and a group's parcel is a border.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from channels_lite.relay.wire import OVERHEAD, Entry, Messages, encode

__all__ = ["Parcel", "Post", "pack"]

#: Bytes of a parcel of several messages, far below what any engine refuses.
ENOUGH = 256 * 1024


class Post:
    """One message on its way out, and who waits for it."""

    __slots__ = ("entry", "error", "future", "is_done", "loop", "members", "subject", "then")

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
        #: Of the sender, who waits for it on its own loop.
        self.future = future
        #: Called on the relay's loop, where nobody waits.
        self.then = then
        self.is_done = False
        self.error: Exception | None = None
        #: The plain channels in the group; None: it goes to a process.
        self.members: list[str] | None = [] if is_group else None


class Parcel:
    """The posts to one subject that go in one publish."""

    __slots__ = ("posts", "size", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.posts: list[Post] = []
        self.size = OVERHEAD

    def payload(self, node: str) -> bytes:
        """As it is published."""
        return encode(Messages(node, [post.entry for post in self.posts]))


def size_of(post: Post) -> int:
    """Bytes that it takes in a parcel, at most."""
    return len(post.entry.name) + len(post.entry.data) + OVERHEAD


def pack(posts: Iterable[Post]) -> Sequence[Parcel]:
    """The parcels for these, in the order in which they have to be published."""
    parcels: list[Parcel] = []
    open_ones: dict[str, Parcel] = {}
    is_of_groups = False
    for post in posts:
        is_group = post.members is not None
        if is_group != is_of_groups or (is_group and post.subject not in open_ones):
            open_ones.clear()
            is_of_groups = is_group
        parcel = open_ones.get(post.subject)
        if parcel is None or parcel.size + size_of(post) > ENOUGH:
            parcel = open_ones[post.subject] = Parcel(post.subject)
            parcels.append(parcel)
        parcel.posts.append(post)
        parcel.size += size_of(post)
    return parcels
