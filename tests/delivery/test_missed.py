"""Messages that full channels missed: how often it is said."""

from __future__ import annotations

import pytest

from channels_lite.delivery.capacity import Limit
from channels_lite.delivery.missed import CAUSES, Missed
from channels_lite.delivery.stats import Stats


@pytest.fixture
def missed():
    return Missed("default", lambda channel: Limit(2, is_bytes=False), Stats())


def test_one_stuck_browser_is_one_cause(missed, caplog):
    """However many groups it is in."""
    for number in range(1500):
        missed.by_group(f"room{number}", 1, "specific.token!a")
    [record] = caplog.records
    assert "room0" in record.getMessage()


def test_causes_without_number_are_one(missed, caplog):
    """What cannot be told apart is said together."""
    for number in range(5 * CAUSES):
        missed.by_group("room", 1, f"plain{number}")
    assert len(caplog.records) == CAUSES + 1
