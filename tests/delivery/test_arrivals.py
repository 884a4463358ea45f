"""Rows and frames in one order, across generations of the table, without a database."""

from __future__ import annotations

import math

import pytest

from channels_lite.clock import Clock
from channels_lite.delivery.arrivals import Arrivals
from channels_lite.delivery.capacity import Limit
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.mailboxes import Mailboxes
from channels_lite.delivery.stats import Stats
from channels_lite.store import sql
from channels_lite.store.sql import Look, Looked, Row, Table
from channels_lite.wake.datagrams import Frame

NAME = "specific.token!"
NOW = 2


class Receiver:
    """A process that works with generation ``NOW`` of the table."""

    def __init__(self):
        self.mailboxes = Mailboxes(lambda channel: Limit(100, is_bytes=False), Stats())
        self.cursors = Cursors("token")
        self.cursors.begin(NOW)
        self.clock = Clock()
        self.clock.set(0.0, NOW)
        self.arrivals = Arrivals(
            mailboxes=self.mailboxes,
            cursors=self.cursors,
            clock=self.clock,
            stats=Stats(),
            missed=None,
            decrypt=None,
        )

    def look(self, rows=(), frames=(), committed=100):
        """A look finds these rows, and these frames have come by then."""
        found = {NAME: [Row(row, "a", False, data, math.inf) for row, data in rows]}
        self.arrivals.take_rows(
            lambda: {name: each for name, each in found.items() if each},
            lambda limit: list(frames),
            self.arrivals.mark()[0],
            committed,
        )
        self.arrivals.deliver()

    def hear(self, *frames):
        self.arrivals.take_frames(lambda limit: list(frames))

    def got(self):
        taken = []
        while (message := self.mailboxes.take(f"{NAME}a", 0.0)) is not None:
            taken.append(message.data)
        return taken


def frame(data, after=0, generation=NOW):
    return Frame(NAME, "a", data, 0.0, math.inf, after, generation, False)


@pytest.fixture
def receiver():
    return Receiver()


def test_frame_of_a_former_generation_comes_before_all_rows(receiver):
    """Its sender learns of this generation by its first row in it, which comes later."""
    receiver.look(rows=[(1, b"row")], frames=[frame(b"frame", generation=NOW - 1)])
    assert receiver.got() == [b"frame", b"row"]


def test_row_that_a_former_generation_names_is_none_of_this_one(receiver):
    """Its number may be a row's again, which comes later nevertheless."""
    receiver.look(rows=[(1, b"row")], frames=[frame(b"frame", after=5, generation=NOW - 1)])
    receiver.hear(frame(b"second", after=2))
    assert receiver.got() == [b"frame", b"row"]  # the second row was not read yet


def test_frame_of_a_later_generation_waits_for_a_look(receiver):
    """It names rows that this process knows nothing of."""
    receiver.cursors.has_seen(NAME, 7)
    receiver.hear(frame(b"frame", after=1, generation=NOW + 1))
    assert receiver.got() == []
    receiver.cursors.begin(NOW + 1)
    receiver.look(rows=[(1, b"row")])
    assert receiver.got() == [b"row", b"frame"]


def test_row_that_no_table_has_is_not_believed(receiver):
    """A frame that names one does not let later frames pass their rows."""
    receiver.hear(frame(b"forged", after=2**40))
    receiver.look(committed=1)
    receiver.hear(frame(b"next", after=2))
    assert receiver.got() == [b"forged"]


@pytest.mark.parametrize("after", [2**40, 4, 2], ids=["far", "near", "there"])
def test_forged_frame_delays_only_itself(receiver, after):
    """What comes behind it is neither held, nor overtaken by the rows that it names."""
    receiver.hear(frame(b"forged", after=after), frame(b"ours", after=0))
    assert receiver.got() == [b"ours"]
    receiver.hear(frame(b"ours, too", after=1))
    receiver.look(rows=[(1, b"first"), (2, b"row")])
    assert receiver.got() == [b"first", b"ours, too", b"row", b"forged"]


def test_frames_of_one_sender_wait_together(receiver):
    """The look that shows that their row is gone was too early to release the second one."""
    receiver.hear(frame(b"one", after=2))
    receiver.look(rows=[(1, b"row")], frames=[frame(b"two", after=2)])
    receiver.hear(frame(b"three", after=2))
    assert receiver.got() == [b"row", b"one", b"two", b"three"]


def test_row_committed_while_a_look_reads_was_not_looked_for():
    """It has the last id of the table, which a look asks for when it has read."""
    cursors = Cursors("token")
    cursors.begin(NOW)
    asked = cursors.ask(0.0, deletes=False)
    assert asked.committed == 0
    cursors.fresh(asked, Looked(Table(NOW, last_id=1), {}))
    assert cursors.ask(0.0, deletes=False).committed == 1
    cursors.begin(NOW + 1)
    assert cursors.ask(0.0, deletes=False).committed == 0


def test_look_does_not_mix_generations():
    """The table is flushed while a look reads: what it found then is read by the next one."""
    row = (1, b"a", 0, b"of the next generation", math.inf)
    generation = NOW

    def execute(statement, parameters):
        nonlocal generation
        if statement == sql.TABLE:
            return [(generation, 0.0, 0, 0.0, 1)]
        generation = NOW + 1
        return [(1, 1)] if statement == sql.SIZE else [row]

    asked = Look(0.0, "token", [NAME], {}, generation=NOW)
    looked = sql.look(execute, asked)
    assert looked.is_new
    assert looked.rows == {}


@pytest.mark.parametrize("generation", [NOW, NOW + 1])
@pytest.mark.parametrize("began_at", [None, 0.0])
def test_clock_of_the_generation_before_holds_until_the_next_is_known(
    receiver, generation, began_at
):
    """What has expired is dropped, and nothing else, whoever has not heard of it yet."""
    now = receiver.clock.now()
    receiver.cursors.begin(NOW + 1)
    if began_at is None:
        receiver.clock.forget(NOW + 1)
    else:
        receiver.clock.set(began_at, NOW + 1)  # it is the same
    for data, left in ((b"expired", -1), (b"live", 60)):
        receiver.hear(Frame(NAME, "a", data, now - 61, now + left, 0, generation, False))
    assert receiver.got() == [b"live"]


def test_row_that_has_expired_is_dropped_while_the_clock_is_unknown(receiver):
    """After `close`, by a coroutine that waits on."""
    now = receiver.clock.now()
    receiver.clock.forget(NOW)
    rows = [Row(row, "a", False, data, at) for row, data, at in
            ((1, b"expired", now - 1), (2, b"live", now + 60))]  # fmt: skip
    receiver.arrivals.take_rows(lambda: {NAME: rows}, lambda limit: [], 0, 100)
    receiver.arrivals.deliver()
    assert receiver.got() == [b"live"]
