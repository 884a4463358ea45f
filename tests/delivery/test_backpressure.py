"""What a sender counts as on its way to another process."""

from __future__ import annotations

import threading

import pytest

from channels_lite.delivery.backpressure import TRANSPORT, Backpressure
from channels_lite.delivery.capacity import Limit
from channels_lite.store.sql import Envelope

NAME = "specific.token!"


class Sender:
    """Sends direct messages of one byte to one channel, one in each datagram."""

    def __init__(self, capacity: int) -> None:
        self.backpressure = Backpressure(
            lambda channel: Limit(capacity, is_bytes=False),
            has_mark=lambda channel: False,
            read_up_to=lambda token: self.read,
            lock=threading.Lock(),
        )
        self.sent = self.read = 0

    @staticmethod
    def envelope() -> Envelope:
        return Envelope(NAME, "0", f"{NAME}0", b"x", 0.0, 60.0)

    def send(self) -> bool | None:
        is_admitted = self.backpressure.admit(self.envelope(), self.sent + 1)
        self.sent += bool(is_admitted)
        return is_admitted


@pytest.mark.parametrize("capacity", [1, 2, 3, 10, 100, 1000])
def test_receiver_that_reads_makes_room(capacity):
    """However much is always on its way, below the capacity."""
    for on_its_way in {0, capacity // 3, capacity // 2, capacity * 7 // 8 - 1}:
        sender = Sender(capacity)
        for _ in range(10 * capacity):
            assert sender.send(), (sender.sent, on_its_way)
            sender.read = max(0, sender.sent - on_its_way)


@pytest.mark.parametrize("capacity", [1, 2, 3, 10, 100, 1000])
@pytest.mark.parametrize("was_read", [0, 0.3, 0.5, 0.9, 1])
def test_capacity_is_the_most(capacity, was_read):
    """Whatever was read before."""
    sender = Sender(capacity)
    while sender.send():
        pass
    sender.read = int(sender.sent * was_read)
    while sender.send():
        assert sender.sent - sender.read <= capacity
    assert sender.sent - sender.read >= capacity * 7 // 8


def test_row_that_is_not_deleted_yet_is_only_one_message():
    """Messages after it were read, and make room."""
    sender = Sender(100)
    sender.backpressure.put(sender.envelope(), row=1)
    for _ in range(1000):
        assert sender.send(), sender.sent
        sender.read = max(0, sender.sent - 20)


@pytest.mark.parametrize("is_direct", [True, False])
def test_more_than_the_capacity_makes_room_when_it_was_read(is_direct):
    """Several sends of one transaction, or threads, may together be more."""
    sender = Sender(10)
    envelope = sender.envelope()
    envelope.data = bytes(TRANSPORT.amount // 10)
    for row in range(1, 16):
        sender.backpressure.put(envelope, row)
    admits = sender.backpressure.admits if is_direct else sender.backpressure.has_transport
    assert not admits(envelope, 0, 1.0, lambda name: 1)
    assert admits(envelope, 0, 1.0, lambda name: None)
