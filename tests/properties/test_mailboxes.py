"""The coroutines that wait on one channel, while its messages come and are taken back.

While the loop does not run, steps are those of another thread while it is busy: coroutines that
were called have had no turn yet.
"""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from channels_lite.clock import Clock
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.plain import AllMailboxes
from channels_lite.delivery.receiving import Receiving
from channels_lite.delivery.stats import Stats
from channels_lite.store.sql import FlushMark
from tests.properties.machine import run_machine

CHANNEL = "p!a"
INDEX = st.integers(0, 9)
STEPS = st.lists(st.sampled_from(["put", "look_into_hands"]), min_size=1, max_size=5)


class Coroutines(RuleBasedStateMachine):
    """One channel, and the coroutines that receive there."""

    @initialize()
    def begin(self):
        self.loop = asyncio.new_event_loop()
        self.mailboxes = AllMailboxes(lambda channel: None, Stats())
        clock = Clock()
        clock.set(0.0)
        self.receiving = Receiving(
            token="p",
            clock=clock,
            generations=SimpleNamespace(hear_of_flush=lambda: asyncio.sleep(0)),
            mailboxes=self.mailboxes,
            cursors=SimpleNamespace(own=lambda name: False),
            claims=None,
            arm=lambda channel, loop, is_new_name: None,
            arms_always=False,
            mark=lambda: None,
        )
        self.receiving.watched = {self.loop}
        self.put_so_far = 0
        self.tasks = []
        self.received = []

    async def _receive(self):
        """As a layer does."""
        receiving = self.receiving
        receiver = receiving.stand_by(CHANNEL)
        if receiver is None:
            message = await receiving.receive(CHANNEL, str)
        else:
            try:
                await receiver
            except asyncio.CancelledError:
                receiving.leave(CHANNEL, receiver)
                raise
            message = receiving.take(CHANNEL, receiver) or await receiving.wait(
                CHANNEL, keeps_place=True
            )
        self.received.append(int(message.data))

    def put(self):
        message = Message(1, b"%d" % self.put_so_far, math.inf)
        self.put_so_far += 1
        self.mailboxes.put_all([([CHANNEL], message, False)], 0.0)

    def look_into_hands(self):
        """As a flush does, which voids nothing here."""
        self.mailboxes.void(FlushMark(0, -1.0))

    @rule(count=st.integers(1, 3))
    def receive(self, count):
        self.tasks += [self.loop.create_task(self._receive()) for _ in range(count)]

    @precondition(lambda self: self.tasks)
    @rule(index=INDEX)
    def cancel(self, index):
        self.tasks[index % len(self.tasks)].cancel()

    @rule(is_watched=st.booleans())
    def watch(self, is_watched):
        """On a loop that is not watched, a coroutine asks for a flush before it takes a message."""
        self.receiving.watched = {self.loop} if is_watched else set()

    @rule(steps=STEPS)
    def other_thread(self, steps):
        for step in steps:
            getattr(self, step)()

    @rule(steps=STEPS)
    def other_thread_and_then_a_pause(self, steps):
        self.other_thread(steps)
        self.settle()

    @rule(steps=STEPS)
    def own_thread(self, steps):
        async def run():
            self.other_thread(steps)

        self.loop.run_until_complete(run())

    @rule()
    def turn(self):
        self.loop.run_until_complete(asyncio.sleep(0))

    @rule()
    def settle(self):
        """Until nothing happens any more, nobody waits for what is there."""
        for _ in range(20):
            self.turn()
        self.tasks = [task for task in self.tasks if not task.done()]
        mailbox = self.mailboxes.get(CHANNEL)
        assert mailbox is None or not (mailbox.messages and mailbox.receivers)
        queued = [] if mailbox is None else [int(each.data) for each in mailbox.messages]
        assert sorted(self.received) + queued == list(range(self.put_so_far))

    @invariant()
    def nothing_comes_twice(self):
        assert len(set(self.received)) == len(self.received)

    def teardown(self):
        if hasattr(self, "loop"):
            self.settle()
            for task in self.tasks:
                task.cancel()
            self.settle()
            self.loop.close()


def test_no_message_stays_where_a_coroutine_waits():
    run_machine(Coroutines)
