"""A process that is busy, or stopped, misses no message below the capacity of its channels."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from tests.processes.conftest import LAYERS, Child, configured

pytestmark = pytest.mark.usefixtures("write_ahead_log")

IDLE = 400
#: How each of the idle channels gets one message.
WAYS: dict[str, dict[str, bool]] = {
    "send": {},
    "send, together": {"at_once": True},
    "group_send": {"to_groups": True},
    "group_send, together": {"to_groups": True, "at_once": True},
}

Disturb = Callable[[Child], AbstractContextManager[None]]


class Crowd:
    """One process with idle channels, each alone in a group, and those that send to all of them.

    It keeps the ledger: what each sender has sent to each channel, and what came.
    """

    def __init__(self, start: Any, layer: str, senders: int) -> None:
        environment = configured(layer, expiry=600)
        self.receiver: Child = start(layer, **environment)
        self.senders: list[Child] = [start(layer, **environment) for _ in range(senders)]
        self._tokens = [sender.do("describe")["prefix"] for sender in self.senders]
        self._channels: list[str] = self.receiver.do("receive_on_many", count=IDLE)
        self._groups = [f"user-{number}" for number in range(IDLE)]
        self._sent: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._received: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._missing = 0
        self._number = 0

    def send(self, senders: int, *, share: bool = False, **how: bool) -> int:
        """So many processes send at the same time; how many messages were refused.

        Each to all channels, or each to its ``share`` of them.
        """
        self._number += 1
        names = self._groups if how.get("to_groups") else self._channels
        for place in range(senders):
            mine = slice(place, None, senders) if share else slice(None)
            self.senders[place].begin("send_each", to=names[mine], number=self._number, **how)
            for channel in self._channels[mine]:
                self._sent[channel, self._tokens[place]].append(self._number)
        refused = sum(sender.finish(600) for sender in self.senders[:senders])
        self._missing += (IDLE if share else senders * IDLE) - refused
        return refused

    def hear(self) -> int:
        """Enters what came; how many messages are missing that were not refused."""
        heard = self.receiver.heard(self._missing)
        for each in heard:
            message = each["received"]
            self._received[each["channel"], message["sender"]].append(message["number"])
        missing, self._missing = self._missing - len(heard), 0
        return missing

    def is_complete(self) -> bool:
        """Whether each channel has all that each process has sent to it, once, and in order."""
        return self._received == self._sent


@contextmanager
def stopped(receiver: Child) -> Any:
    """For ten seconds, or as long as it takes."""
    receiver.stop()
    until = time.monotonic() + 10
    yield
    time.sleep(max(0.0, until - time.monotonic()))
    receiver.go_on()


def busy(seconds: float) -> Disturb:
    """The receiver's loop runs nothing else for so long, beginning now."""

    def hold(receiver: Child) -> AbstractContextManager[None]:
        receiver.do("hold_loop", seconds=seconds)
        return nullcontext()

    return hold


def outcome(
    crowd: Crowd, senders: int, disturb: Disturb, *, share: bool = False
) -> dict[str, tuple[int, int]]:
    """How many messages were refused and how many were lost, by each way."""
    faults = {}
    for way, how in WAYS.items():
        with disturb(crowd.receiver):
            refused = crowd.send(senders, share=share, **how)
        faults[way] = (refused, crowd.hear())
    return faults


@pytest.mark.parametrize("layer", LAYERS)
def test_idle_channels_of_a_busy_process(start, layer):
    """A loop that is held for 0.5 s: each idle channel gets its message, by one and by eight."""
    crowd = Crowd(start, layer, 8)
    faults = {count: outcome(crowd, count, busy(0.5), share=True) for count in (1, 8)}
    nothing = dict.fromkeys(WAYS, (0, 0))
    assert faults == {1: nothing, 8: nothing}
    assert crowd.is_complete()


@pytest.mark.chaos
@pytest.mark.parametrize("senders", [1, 8])
@pytest.mark.parametrize("disturb", [busy(2), stopped], ids=["busy", "stopped"])
@pytest.mark.parametrize("layer", LAYERS)
def test_idle_channels_of_a_process_without_time(start, layer, disturb, senders):
    """It is busy for 2 s, or stopped for 10: nothing refused, nothing lost, in order."""
    crowd = Crowd(start, layer, senders)
    assert outcome(crowd, senders, disturb) == dict.fromkeys(WAYS, (0, 0))
    assert crowd.is_complete()


@pytest.mark.chaos
@pytest.mark.parametrize("senders", [1, 8])
@pytest.mark.parametrize("layer", LAYERS)
def test_all_ways_while_it_is_stopped(start, layer, senders):
    """What comes by all four ways while a process is stopped comes in the order of each sender."""
    crowd = Crowd(start, layer, senders)
    with stopped(crowd.receiver):
        refused = {way: crowd.send(senders, **how) for way, how in WAYS.items()}
    assert (refused, crowd.hear()) == (dict.fromkeys(WAYS, 0), 0)
    assert crowd.is_complete()
