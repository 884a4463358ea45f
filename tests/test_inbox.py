"""The mailboxes, without a database."""

from __future__ import annotations

import asyncio
import math
import threading

from channels_lite.inbox import Inbox
from channels_lite.stats import Stats
from channels_lite.store.sql import Claimed, FlushMark, Looked, Row
from tests.conftest import PATIENCE


def inbox_of(limit):
    inbox = Inbox(lambda channel: limit, Stats())
    inbox.own("p!")
    return inbox


def deliver(inbox, rows=(), claimed=(), asked=None):
    looked = Looked({"p!": list(rows)}, {"jobs": list(claimed)}, FlushMark(0, 0.0))
    asked = asked or inbox.ask(0.0, deletes=False)
    inbox.deliver(asked, looked, [], 0.0, lambda data: data)


async def test_what_a_look_found_before_a_flush_is_void():
    """A look that was under way when this process flushed brings back only what came after."""
    inbox = inbox_of(10)
    receiver = inbox.wait("jobs", asyncio.get_running_loop())
    asked = inbox.ask(0.0, deletes=False)
    inbox.clear(FlushMark(5, 1.0))
    claims = [Claimed(number, b"%d" % number, math.inf, 0.0) for number in (4, 5)]
    deliver(
        inbox, [Row(number, "a", b"row %d" % number, math.inf) for number in (3, 6)], claims, asked
    )
    assert inbox.take("jobs", 0.0, receiver).data == b"5"
    assert inbox.take("p!a", 0.0).data == b"row 6"
    assert (inbox.buffered("jobs"), inbox.buffered("p!a")) == (0, 0)


async def test_cancelled_receiver_passes_its_message_on():
    """A receiver that is cancelled after it was called leaves its message to the next one."""
    inbox = inbox_of(10)
    first, second = (
        inbox.wait("jobs", asyncio.get_running_loop()),
        inbox.wait("jobs", asyncio.get_running_loop()),
    )
    deliver(inbox, claimed=[Claimed(1, b"message", math.inf, 0.0)])
    assert first.done()
    assert not second.done()
    inbox.leave("jobs", first)
    assert second.done()
    assert inbox.take("jobs", 0.0).data == b"message"


async def test_claimed_message_without_receiver_is_given_back():
    """What was claimed and nobody here waits for any more goes back as it was."""
    inbox = inbox_of(10)
    receiver = inbox.wait("jobs", asyncio.get_running_loop())
    claimed = Claimed(1, b"message", math.inf, 0.0)
    deliver(inbox, claimed=[claimed])
    inbox.leave("jobs", receiver)
    assert inbox.to_release(is_closing=True).unclaimed == [("jobs", claimed)]
    assert inbox.take("jobs", 0.0) is None


def test_full_member_of_a_group_misses_the_message():
    """A group's message is dropped for the member whose mailbox is full, and kept for others."""
    inbox = inbox_of(2)
    for number in range(1, 4):
        deliver(inbox, [Row(number, "a,b", b"message", math.inf)])
        inbox.take("p!b", 0.0)
    assert (inbox.buffered("p!a"), inbox.buffered("p!b"), inbox.dropped) == (2, 0, 1)
    assert inbox.to_release(is_closing=True).park == []


def test_direct_message_beyond_capacity_is_kept_and_parked():
    """A direct message to a full mailbox is kept, and its row stays to tell senders so."""
    inbox = inbox_of(2)
    deliver(inbox, [Row(number, "a", b"message", math.inf) for number in (1, 2, 3)])
    assert inbox.buffered("p!a") == 3
    assert inbox.to_release(is_closing=True).park == [(3, "p!")]
    for _ in range(3):
        inbox.take("p!a", 0.0)
    assert inbox.to_release(is_closing=True).received == [(3, "p!a")]


def test_overlapping_looks_deliver_once():
    """Rows that two looks have read are taken in once, in whichever order they come."""
    inbox = inbox_of(10)
    rows = [Row(number, "a", b"message", math.inf) for number in (1, 2, 3)]
    deliver(inbox, rows)
    deliver(inbox, rows[:2])
    assert inbox.buffered("p!a") == 3
    assert inbox.seen("p!") == 3


def test_unused_mailboxes_are_forgotten():
    """A sweep drops what has expired, and mailboxes without messages and receivers."""
    inbox = inbox_of(10)
    deliver(inbox, [Row(1, "a", b"message", 5.0), Row(2, "b", b"message", 50.0)])
    inbox.sweep(10.0)
    assert set(inbox._mailboxes) == {"p!b"}


def test_receiver_that_is_out_asks_for_nothing():
    """Its coroutine may be ended by Python's collector, in the midst of what the lock guards."""
    inbox, loop, other = inbox_of(10), asyncio.new_event_loop(), asyncio.new_event_loop()
    receiver = inbox.wait("channel", loop)
    inbox.wait("channel", other)
    loop.close()
    inbox.sweep(0.0)
    left = []
    with inbox._lock:
        thread = threading.Thread(target=lambda: left.append(inbox.leave("channel", receiver)))
        thread.start()
        thread.join(PATIENCE)
    other.close()
    assert left == [False]
