"""The sidecar directory."""

from __future__ import annotations

import os
import time

import pytest

from channels_lite.wake.fifo import Fifo, Report, report_of


@pytest.fixture
def make(tmp_path):
    """Makes processes' FIFOs in one directory."""
    made = []

    def make(token):
        made.append(Fifo(tmp_path / "wake", token))
        return made[-1]

    yield make
    for fifo in made:
        fifo.close()
        fifo.abandon()


def test_one_of_the_living_does_the_upkeep(make, tmp_path):
    """Whoever asks first, until it dies or its turn is over; by no name, and whoever receives."""
    first, second = make("b"), make("a")
    assert first.takes_turn(10)
    assert not first.takes_turn(10)
    assert not second.takes_turn(10)
    os.utime(tmp_path / "wake" / ".upkeep", (time.time() - 11,) * 2)
    assert second.takes_turn(10)
    assert not first.takes_turn(10)
    second.close()
    assert first.takes_turn(10)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"../b"])
def test_garbage_keeps_nobody_from_the_upkeep(make, tmp_path, content):
    """Nor does what cannot be written."""
    fifo = make("b")
    mark = tmp_path / "wake" / ".upkeep"
    mark.write_bytes(content)
    assert fifo.takes_turn(10)
    mark.unlink()
    os.mkfifo(mark)
    assert fifo.takes_turn(10)
    assert fifo.takes_turn(10)
    mark.unlink()


@pytest.mark.parametrize(
    "content", [b"\xff", b"", b'["boot"]', b'["boot", "soon"]', b'["other", 1.0]']
)
def test_clock_of_another_boot_is_none(make, tmp_path, content):
    """Nor is what somebody else wrote in its place."""
    fifo = make("b")
    assert fifo.origin("boot") is None
    fifo.keep_origin("boot", 5.0)
    assert make("a").origin("boot") == 5.0
    (tmp_path / "wake" / ".clock").write_bytes(content)
    assert fifo.origin("boot") is None


def test_link_in_a_report_s_place_is_not_followed(make, tmp_path):
    """What somebody has planted is neither written nor read."""
    fifo = make("b")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "wake" / "b.received").symlink_to(victim)
    fifo.report(Report(7))
    assert victim.read_text() == "precious"
    assert report_of(tmp_path / "wake" / "b") == Report()


def test_file_in_a_channel_s_place_stops_no_burial(make, tmp_path):
    """What is no name of ours is passed over."""
    fifo = make("b")
    (tmp_path / "wake" / "@jobs").touch()
    os.mkfifo(tmp_path / "wake" / "dead")
    assert fifo.stale() == {"dead"}
    fifo.remove_stale({"dead"})
    assert not (tmp_path / "wake" / "dead").exists()
    (tmp_path / "wake" / "@jobs").unlink()
