"""Histories in JetStream: one stream for all groups, with a subject for each.

Its sequence numbers are the order of all histories.  The stream is on disk, and keeps the same
number of messages of each group: that of the group with the largest limit.  Nothing says which
messages of a subject were deleted.  But they are always its oldest, so what follows can be known:

1. If a message of the group up to an id is there, all messages after that id are.
2. Messages are deleted by age only if the first of the stream is after the id, and by number only
   if the subject has as many as it may have.

To have the last message of a silent group for this, the stream keeps messages a day longer than
groups do.  They are not among the last ones then, but a client gets them after its position.  For
the same reason, who joins a group without messages appends an empty one, which nobody gets.

An id is a sequence number, and the microsecond in which the stream was made added to it.  So ids
grow even if NATS has lost its data, and no id is ever used twice.

Thread: the relay's loop; `append`, any loop that may use the link.  Two of them may make the stream
at the same time, with the same effect.
"""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

from channels_lite.errors import StoreUnavailable
from channels_lite.history import Limit, Limits
from channels_lite.relay import Head, Page, Recent, Settings, most_of
from channels_lite.relay.nats.reading import Found, Reader, nanoseconds, require
from channels_lite.relay.nats.requests import (
    NO_RESPONDERS,
    NO_STREAM,
    Reply,
    Requests,
    code_of,
)
from channels_lite.relay.nats.streams import Streams
from channels_lite.relay.wire import escape, unescape

__all__ = ["Histories"]

# Seconds for which messages are kept longer than groups keep them.
LONGER = 86400
# Messages that are read one by one; more are read by a consumer.
FEW = 16
# Messages of all groups that one look reads.
MOST = 1000


class State(NamedTuple):
    """The stream, and the number of messages of some groups in it."""

    #: When it was made, in nanoseconds since 1970.
    made_at: int
    first: int
    last: int
    #: The number of messages of a group from which on the oldest are deleted.
    most: int
    #: The age in seconds at which messages are deleted.
    age: float
    counts: dict[str, int]

    @property
    def base(self) -> int:
        """The id before the first one."""
        return self.made_at // 1000

    @property
    def head(self) -> Head:
        """For the layer."""
        return Head(self.made_at, self.base + self.last)


class Histories:
    """Owns the readings under way, and knows the limits of the stream."""

    def __init__(self, settings: Settings, requests: Requests, streams: Streams) -> None:
        self._requests = requests
        self._streams = streams
        self._stream = f"{settings.prefix}_histories"
        #: The start of their subjects.
        self._subjects = f"{settings.prefix}.h."
        self._made = Limit(0, 0)
        self._reader = Reader(self._stream, requests)

    def take(self, subject: str, reply: str, data: bytes) -> bool:
        """Takes a message that the server has delivered.  False if it is no history's."""
        is_ours = subject.startswith(self._subjects)
        if is_ours:
            self._reader.take(subject, reply, data)
        return is_ours

    def _subject(self, group: str) -> str:
        return f"{self._subjects}{escape(group)}"

    def _group(self, subject: str) -> str:
        return unescape(subject[len(self._subjects) :])

    # The stream

    async def _make(self, limit: Limit) -> None:
        """Makes the stream, or lets it keep more.  It never keeps less than before."""
        if self._made.messages >= limit.messages and self._made.seconds >= limit.seconds:
            return
        most, age = most_of(limit), int((limit.seconds + LONGER) * 1e9)
        said = await self._requests.api(f"STREAM.INFO.{self._stream}")
        if code_of(said) == 0:
            most = max(most, said["config"]["max_msgs_per_subject"])
            age = max(age, said["config"]["max_age"])
        await self._streams.make(
            self._stream,
            {
                "subjects": [f"{self._subjects}>"],
                "storage": "file",
                "max_msgs_per_subject": most,
                "max_age": age,
            },
        )
        known = self._made
        self._made = Limit(max(known.messages, limit.messages), max(known.seconds, limit.seconds))

    async def _state(self, counted: str = "") -> State | None:
        """``counted``: groups whose messages are counted.  None: there is no stream."""
        asked = {"subjects_filter": counted} if counted else {}
        said = await self._requests.api(f"STREAM.INFO.{self._stream}", **asked)
        if code_of(said) == NO_STREAM:
            return None
        require(said)
        state = said["state"]
        found: dict[str, int] = state.get("subjects") or {}
        while said.get("total", 0) > len(found) and said["state"].get("subjects"):
            what = {"subjects_filter": counted, "offset": len(found)}
            said = require(await self._requests.api(f"STREAM.INFO.{self._stream}", **what))
            found |= said["state"].get("subjects") or {}
        counts = {self._group(subject): count for subject, count in found.items()}
        most, age = said["config"]["max_msgs_per_subject"], said["config"]["max_age"] / 1e9
        # An empty stream says 0 and 0 before the first message.
        first = max(state["first_seq"], 1)
        return State(nanoseconds(said["created"]), first, state["last_seq"], most, age, counts)

    async def clear(self) -> None:
        """Deletes the stream.  The next one has other ids."""
        self._made = Limit(0, 0)
        said = await self._requests.api(f"STREAM.DELETE.{self._stream}")
        if code_of(said) != NO_STREAM:
            require(said)

    # Append

    async def append(self, group: str, data: bytes, limit: Limit) -> None:
        """By a request, which the stream answers when it has the message."""
        if self._requests.lack:
            raise StoreUnavailable(self._requests.lack)
        await self._make(limit)
        answer = await self._requests.ask(self._subject(group), data)
        if answer.status == NO_RESPONDERS:  # it was deleted
            self._made = Limit(0, 0)
            await self._make(limit)
            answer = await self._requests.ask(self._subject(group), data)
        _sequence(answer)

    async def _add(self, group: str, data: bytes) -> int:
        return _sequence(await self._requests.ask(self._subject(group), data))

    # Read

    async def recent(self, row: int | None, age: float, limit_of: Limits) -> Recent:
        """See `Link`.  It reads the messages of all groups, so that it can miss none."""
        state = await self._state()
        if state is None:
            return Recent(Head(0, 0), 0, [], {})
        if row is None or row >= state.head.last:
            return Recent(state.head, state.head.last, [], {})
        base, before = state.base, max(row - state.base, state.first - 1)
        found, through = await self._range(before + 1, state.last)
        trimmed: dict[str, int] = {}
        if len(found) < through - max(row - base, 0):  # messages of some groups were deleted
            trimmed = await self._trimmed(row, limit_of)
        rows = [
            (group, base + each.sequence, each.data)
            for group, each in ((self._group(each.subject), each) for each in found)
            if each.data and limit_of(group) is not None
        ]
        gone = base + state.first - 1
        is_by_age = row < base or age >= state.age
        floor = gone if row < gone and is_by_age else 0
        head = Head(state.made_at, base + max(through, state.last))
        return Recent(head, base + through, rows, trimmed, floor)

    async def _range(self, start: int, last: int) -> tuple[list[Found], int]:
        """The messages from ``start`` on, and up to where they are."""
        if last - start < FEW:
            asked = (self._reader.get(seq=sequence) for sequence in range(start, last + 1))
            return [each for each in await asyncio.gather(*asked) if each is not None], last
        found, is_all = await self._reader.read(f"{self._subjects}>", start, last, MOST)
        end = found[-1].sequence if found else start - 1
        return found, max(end, last) if is_all else end

    async def _trimmed(self, row: int, limit_of: Limits) -> dict[str, int]:
        """See `Recent`."""
        state = await self._state(f"{self._subjects}>")
        if state is None:
            return {}
        groups = [
            group
            for group, count in state.counts.items()
            if count >= state.most and limit_of(group) is not None
        ]
        gone = await asyncio.gather(*(self._gone(group, row, state) for group in groups))
        return dict(zip(groups, gone, strict=True))

    async def _gone(self, group: str, row: int, state: State) -> int:
        """Up to which id messages of the group after ``row`` are gone; 0: none are."""
        oldest = await self._reader.get(next_by_subj=self._subject(group), seq=1)
        if row >= state.base:
            if oldest is not None and state.base + oldest.sequence <= row:
                return 0
            if state.base + state.first - 1 <= row and state.counts.get(group, 0) < state.most:
                return 0
        return state.base + (state.last if oldest is None else oldest.sequence - 1)

    async def after(self, group: str, row: int, most: int, limit: Limit) -> Page:
        """See `Link`."""
        subject = self._subject(group)
        state = await self._existing(subject, limit)
        if not most:
            return await self._place(group, row, state)
        start = max(row - state.base, 0) + 1
        found: list[Found] = []
        is_all = start > state.last
        while not is_all and not any(each.data for each in found):
            found, is_all = await self._reader.read(subject, start, state.last, most)
            start = found[-1].sequence + 1 if found else start
        # After the messages, so that it also knows what was deleted meanwhile.
        now = await self._existing(subject, limit)
        if now.made_at != state.made_at:
            raise StoreUnavailable("the histories were flushed")
        last = max(state.last, start - 1)
        rows = [(state.base + each.sequence, each.data) for each in found if each.data]
        gone = await self._gone(group, row, now)
        return Page(Head(state.made_at, state.base + last), rows, is_all, gone, 0)

    async def _place(self, group: str, row: int, state: State) -> Page:
        """A page without messages."""
        gone, newest = await asyncio.gather(
            self._gone(group, row, state), self._reader.get(last_by_subj=self._subject(group))
        )
        last = await self._add(group, b"") if newest is None else newest.sequence
        head = Head(state.made_at, max(state.head.last, state.base + last))
        return Page(head, [], True, gone, state.base + last)

    async def _existing(self, counted: str, limit: Limit) -> State:
        """The state of the stream, which is made if there is none."""
        if self._requests.lack:
            raise StoreUnavailable(self._requests.lack)
        state = await self._state(counted)
        if state is None:
            self._made = Limit(0, 0)
            await self._make(limit)
            state = await self._state(counted)
        if state is None:
            raise StoreUnavailable("JetStream has no stream for histories")
        return state

    async def before(self, group: str, most: int, limit: Limit) -> int:
        """Begins near the end, and goes back until there are enough."""
        subject = self._subject(group)
        state = await self._existing(subject, limit)
        most = min(most, await self._reader.count(subject, limit.seconds))
        if not most:
            return state.head.last
        step, start = most, state.last + 1
        found: list[int] = []
        while len(found) < most and start > state.first:
            start, step = max(start - step, state.first), 4 * step
            least = most if start > state.first else 1
            found = await self._reader.sequences(subject, start, least)
        return state.base + (found[-most:][0] - 1 if found else state.last)

    async def kept(self) -> tuple[int, int]:
        """By the state of the stream."""
        said = await self._requests.api(f"STREAM.INFO.{self._stream}")
        if code_of(said) == NO_STREAM:
            return 0, 0
        state = require(said)["state"]
        return state["messages"], state.get("num_subjects", 0)


def _sequence(answer: Reply) -> int:
    """The sequence number of a message that was appended."""
    if answer.status:
        raise StoreUnavailable("JetStream does not answer: the stream has no leader yet")
    return int(require(json.loads(answer.data))["seq"])
