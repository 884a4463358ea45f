"""The byte that a wake-up writes, as C and Python have it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from channels_lite.wake import sign_of
from channels_lite.wake.fifo import Fifo
from channels_lite.wake.hooks import hooks

NAMES = st.from_regex(r"[a-zA-Z0-9\-_.]{1,60}", fullmatch=True)


@given(name=NAMES)
def test_plain_channel_has_one_sign(name):
    """What C writes into the FIFO of a reader is what that reader asks for."""
    assert hooks.reason == ""
    with tempfile.TemporaryDirectory(prefix="cl") as folder:
        sidecar = Path(folder) / "wake"
        fifo = Fifo(sidecar, "token")
        try:
            fifo.link(name)
            assert hooks.wake(bytes(sidecar), name) == 1
            assert fifo.drain() == {sign_of(name)}
            assert hooks.wake(bytes(sidecar), "p.token!") == 1
            assert fifo.drain() == {1}
            assert hooks.wake_all(bytes(sidecar)) == 1
            assert fifo.drain() == {0}
        finally:
            fifo.close()
            fifo.abandon()


def test_full_fifo_may_have_been_written_anything(tmp_path):
    """A byte that found no room is not missed: whoever drains a full one asks for everything."""
    sidecar = tmp_path / "wake"
    fifo = Fifo(sidecar, "token")
    for _ in range(70_000):
        assert hooks.wake(bytes(sidecar), "p.token!") == 1
    assert fifo.drain() == {0, 1}
    assert fifo.drain() == frozenset()
    fifo.close()
    fifo.abandon()
