"""The mailboxes, and what was read of the table, without a database."""

from __future__ import annotations

import asyncio
import math
import threading
from functools import partial

import pytest

from channels_lite.delivery.capacity import OVERHEAD, Limit
from channels_lite.delivery.cursors import NAMES, Cursors
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.plain import AllMailboxes
from channels_lite.delivery.stats import Stats
from channels_lite.store.sql import Claimed, FlushMark, Looked, Row, Table
from tests.conftest import TIMEOUT


def mailboxes_of(limit):
    return AllMailboxes(lambda channel: Limit(limit, is_bytes=False), Stats())


def put(mailboxes, *channels, is_group=True, data=b"message", expires_at=math.inf, now=0.0):
    return mailboxes.put_all([(list(channels), Message(1, data, expires_at), is_group)], now)


def drain(mailboxes, channel):
    taken = []
    while (message := mailboxes.take(channel, 0.0)) is not None:
        taken.append(message.data)
    return taken


async def test_cancelled_receiver_passes_its_message_on():
    """A receiver that is cancelled after it was called leaves its message to the next one."""
    mailboxes, loop = mailboxes_of(10), asyncio.get_running_loop()
    first, second = (mailboxes.wait("jobs", loop)[0] for _ in range(2))
    mailboxes.put_claimed("jobs", [(Claimed(1, b"message", math.inf, 0.0), b"message")])
    assert first.done()
    assert not second.done()
    mailboxes.leave("jobs", first, 0.0)
    assert second.done()
    assert mailboxes.take("jobs", 0.0).data == b"message"


async def test_turn_at_a_queue_is_for_receivers_without_a_row():
    """A process whose receivers all have one leaves the turn to another process."""
    mailboxes, loop = mailboxes_of(10), asyncio.get_running_loop()
    assert not mailboxes.is_wanted("jobs")
    receivers = [mailboxes.wait("jobs", loop)[0] for _ in range(2)]
    for number, is_wanted in ((1, True), (2, False)):
        claimed = Claimed(number, b"message", math.inf, 0.0)
        mailboxes.put_claimed("jobs", [(claimed, b"message")])
        assert mailboxes.is_wanted("jobs") is is_wanted
    assert mailboxes.take_from("jobs", receivers[0]) is not None
    assert not mailboxes.is_wanted("jobs")  # the coroutine is at work


async def test_receiver_that_was_beaten_stays_first_in_line():
    """Another coroutine took the message it was called for; the next one is for it."""
    mailboxes, loop = mailboxes_of(10), asyncio.get_running_loop()
    first, second = (mailboxes.wait("p!a", loop)[0] for _ in range(2))
    put(mailboxes, "p!a")
    assert mailboxes.take("p!a", 0.0) is not None  # by one that came just now
    assert mailboxes.take_from("p!a", first) is None
    first, _ = mailboxes.wait("p!a", loop, keeps_place=True)
    put(mailboxes, "p!a")
    assert first.done()
    assert not second.done()


async def test_message_of_a_cancelled_receiver_comes_first():
    """Those who were called for later messages, and did not have their turn, take earlier ones."""
    mailboxes, loop = mailboxes_of(10), asyncio.get_running_loop()
    receivers = [mailboxes.wait("p!a", loop)[0] for _ in range(3)]
    for number in range(4):
        put(mailboxes, "p!a", data=b"%d" % number)
    mailboxes.leave("p!a", receivers[0], 0.0)
    assert [mailboxes.take_from("p!a", each) for each in receivers[1:]] == [None, None]
    assert drain(mailboxes, "p!a") == [b"0", b"1", b"2", b"3"]


async def test_expired_message_of_a_cancelled_receiver_goes_to_nobody():
    """Its loop was busy until then."""
    mailboxes, loop = mailboxes_of(10), asyncio.get_running_loop()
    first, second = (mailboxes.wait("p!a", loop)[0] for _ in range(2))
    put(mailboxes, "p!a")
    mailboxes.leave("p!a", first, math.inf)
    assert not second.done()


async def test_flush_voids_what_is_in_a_hand():
    """Its receiver waits for the next message."""
    mailboxes, loop = mailboxes_of(10), asyncio.get_running_loop()
    receiver, _ = mailboxes.wait("p!a", loop)
    put(mailboxes, "p!a")
    mailboxes.void(FlushMark(5, 0.0))
    assert mailboxes.take_from("p!a", receiver) is None
    assert mailboxes.is_empty


async def test_receiver_that_is_called_twice_before_its_turn_strands_nothing():
    """A thread calls it, the message is taken back meanwhile, and the thread calls it again."""
    mailboxes, loop = mailboxes_of(10), asyncio.get_running_loop()
    receivers = [mailboxes.wait("p!a", loop)[0] for _ in range(2)]

    def work():
        put(mailboxes, "p!a", data=b"0")
        mailboxes.void(FlushMark(0, -1.0))  # voids nothing, but looks into each hand
        put(mailboxes, "p!a", data=b"1")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    await asyncio.wait_for(asyncio.gather(*receivers), TIMEOUT)
    taken = [mailboxes.take_from("p!a", each) for each in receivers]
    assert [message.data for message in taken] == [b"0", b"1"]


async def test_message_in_a_hand_on_a_closed_loop_goes_to_another_receiver():
    """The loop was closed after its coroutine was called."""
    mailboxes, closed = mailboxes_of(10), asyncio.new_event_loop()
    mailboxes.wait("p!a", closed)
    put(mailboxes, "p!a")
    receiver, _ = mailboxes.wait("p!a", asyncio.get_running_loop())
    closed.close()
    mailboxes.sweep(0.0, 10)
    assert receiver.done()
    assert mailboxes.take_from("p!a", receiver).data == b"message"


def test_receiver_on_a_loop_that_stands_still_strands_nothing():
    """A message goes to a receiver whose loop runs, though another one has waited longer."""
    mailboxes, standing = mailboxes_of(10), asyncio.new_event_loop()
    mailboxes.wait("p!a", standing)

    async def wait():
        receiver, _ = mailboxes.wait("p!a", asyncio.get_running_loop())
        thread = threading.Thread(target=put, args=(mailboxes, "p!a"))
        thread.start()
        await asyncio.wait_for(receiver, TIMEOUT)
        thread.join()

    asyncio.run(wait())
    standing.close()


async def test_claimed_message_without_receiver_is_unwanted():
    """What was claimed and nobody here waits for any more goes back as it was."""
    mailboxes = mailboxes_of(10)
    receiver, _ = mailboxes.wait("jobs", asyncio.get_running_loop())
    claimed = Claimed(1, b"message", math.inf, 0.0)
    mailboxes.put_claimed("jobs", [(claimed, b"message")])
    assert mailboxes.unwanted() == []
    mailboxes.leave("jobs", receiver, 0.0)
    assert mailboxes.unwanted() == [("jobs", claimed)]
    assert mailboxes.take("jobs", 0.0) is None
    assert mailboxes.is_empty


def test_full_member_of_a_group_misses_the_message():
    """A group's message is dropped for the member whose mailbox is full, and kept for others."""
    mailboxes = mailboxes_of(2)
    missed = [put(mailboxes, "p!a", "p!b") for _ in range(3) if drain(mailboxes, "p!b") or True]
    assert missed == [[], [], ["p!a"]]
    assert len(drain(mailboxes, "p!a")) == 2


def test_direct_message_that_was_sent_is_taken_in():
    """Beyond capacity, too: its sender was told that it is on its way.  One's own is refused."""
    mailboxes = mailboxes_of(2)
    for _ in range(3):
        assert put(mailboxes, "p!a", is_group=False) == []
    assert put(mailboxes, "p!a") == ["p!a"]
    assert len(drain(mailboxes, "p!a")) == 3


def test_what_has_expired_makes_room():
    """A full mailbox drops what has expired before it refuses anything."""
    mailboxes = mailboxes_of(2)
    put(mailboxes, "p!a", expires_at=5.0)
    put(mailboxes, "p!a", expires_at=50.0)
    assert put(mailboxes, "p!a", data=b"late", now=10.0) == []
    assert put(mailboxes, "p!a", now=10.0) == ["p!a"]


@pytest.mark.parametrize("limit", [1, 2, 8, 100])
def test_senders_are_told_when_a_channel_is_full_and_when_no_longer(limit):
    """Once at its capacity, and once when an eighth of it is free, not with each message."""
    mailboxes = mailboxes_of(limit)
    for number in range(limit):
        assert mailboxes.full == set(), number
        put(mailboxes, "p!a")
    assert mailboxes.full == {"p!a"}
    assert mailboxes.take_changed() == {"p!a"}
    taken = 0
    while mailboxes.full:
        mailboxes.take("p!a", 0.0)
        taken += 1
    assert taken == max(1, limit // 8)
    assert mailboxes.take_changed() == {"p!a"}


def test_capacity_by_bytes():
    """Where it is bytes, a message counts for its data and some overhead; a first one has room."""
    mailboxes = AllMailboxes(lambda channel: Limit(3 * OVERHEAD, is_bytes=True), Stats())
    assert put(mailboxes, "p!a", data=bytes(10 * OVERHEAD)) == []
    assert put(mailboxes, "p!a") == ["p!a"]
    mailboxes.take("p!a", 0.0)
    assert [put(mailboxes, "p!a", data=b"") for _ in range(4)] == [[], [], [], ["p!a"]]


def test_unused_mailboxes_are_forgotten():
    """A sweep drops what has expired, and mailboxes without messages and receivers, in slices."""
    mailboxes = mailboxes_of(10)
    put(mailboxes, "p!a", expires_at=5.0)
    put(mailboxes, "q!b", expires_at=50.0)
    assert mailboxes.sweep(10.0, 1)
    assert not mailboxes.sweep(10.0, 1)
    assert mailboxes.names() == {"q!"}
    assert set(mailboxes._mailboxes) == {"q!b"}


def test_receiver_that_is_out_asks_for_nothing():
    """Its coroutine may be ended by Python's collector, in the midst of what the lock guards."""
    mailboxes, loop, other = mailboxes_of(10), asyncio.new_event_loop(), asyncio.new_event_loop()
    receiver, _ = mailboxes.wait("channel", loop)
    mailboxes.wait("channel", other)
    loop.close()
    mailboxes.sweep(0.0, 10)
    left = []
    with mailboxes._lock:
        leave = partial(mailboxes.leave, "channel", receiver, 0.0)
        thread = threading.Thread(target=lambda: left.append(leave()))
        thread.start()
        thread.join(TIMEOUT)
    other.close()
    assert left == [False]


def cursors_of(name="p.token!"):
    cursors = Cursors("token")
    cursors.own(name)
    cursors.begin(7)
    return cursors


def read(cursors, numbers, asked=None):
    rows = [Row(number, "a", False, b"message", math.inf) for number in numbers]
    asked = asked or cursors.ask(0.0, deletes=False)
    fresh = cursors.fresh(asked, Looked(Table(7), {"p.token!": rows} if rows else {}))
    return [row.id for row in fresh.get("p.token!", [])]


def test_overlapping_looks_read_once():
    """Rows that two looks have read count once, in whichever order they come back."""
    cursors = cursors_of()
    assert read(cursors, [1, 2, 3]) == [1, 2, 3]
    assert read(cursors, [1, 2]) == []
    assert read(cursors, [3, 4]) == [4]
    assert cursors.seen("p.token!") == 4


def test_what_a_look_found_before_a_flush_is_void():
    """A look that was under way when this process flushed brings back only what came after."""
    cursors = cursors_of()
    asked = cursors.ask(0.0, deletes=False)
    assert cursors.flush(FlushMark(5, 1.0))
    assert not cursors.flush(FlushMark(5, 1.0))
    assert read(cursors, [3, 6], asked) == [6]


def test_nothing_is_acknowledged_of_what_was_flushed():
    """Its bytes would else send a later small acknowledgement to the thread of the store."""
    cursors = cursors_of()
    read(cursors, [3])
    cursors.flush(FlushMark(5, 1.0))
    through = cursors.to_acknowledge()
    assert (through.read, through.rows, through.size) == ({}, 0, 0)


def test_what_a_look_found_in_a_former_generation_is_void():
    """Its ids mean nothing any more, and neither do the cursors."""
    cursors = cursors_of()
    read(cursors, [5])
    asked = cursors.ask(0.0, deletes=False)
    through = cursors.to_acknowledge()
    cursors.begin(8)
    assert read(cursors, [6], asked) == []
    cursors.restore(through)
    assert cursors.to_acknowledge().read == {}
    asked = cursors.ask(0.0, deletes=False)
    assert (asked.generation, asked.last_id, asked.cursors) == (8, 0, {})


def test_many_names_are_asked_for_at_once():
    """And forgotten when no channel of theirs is in use, but for those with rows to delete."""
    cursors = cursors_of()
    for number in range(NAMES):
        cursors.own(f"p{number}.token!")
    assert cursors.ask(0.0, deletes=False).names is None
    read(cursors, [1])
    cursors.keep(lambda: {"p1.token!"})
    assert set(cursors.ask(0.0, deletes=False).names) == {"p.token!", "p1.token!"}
    cursors.acknowledged(cursors.to_acknowledge())
    cursors.keep(lambda: {"p1.token!"})
    assert set(cursors.ask(0.0, deletes=False).names) == {"p1.token!"}


def test_name_that_is_taken_while_others_are_forgotten():
    """By a thread that began to receive after it was asked which names are in use."""
    cursors = cursors_of()
    cursors.own("p.token!")
    thread = threading.Thread(target=cursors.own, args=("p.token!",))

    def in_use():
        thread.start()
        thread.join(0.1)  # it waits for the lock
        return set()

    cursors.keep(in_use)
    thread.join()
    assert set(cursors.ask(0.0, deletes=False).names) == {"p.token!"}
