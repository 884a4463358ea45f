"""RECEIVE, from plain channels: several processes may take their rows, so each row is claimed.

A claim takes the write lock, which another program may hold for long.  So claims have their own
queue, and only receivers on plain channels wait for them.  A claim asks only about channels with a
wake-up, channels on which a coroutine has just started to wait, and at each interval all channels.

A wake-up is a turn for one process (`wake.queues`).  If rows are left after a claim, or if no
coroutine waits any more, the turn is passed on.

If no coroutine here waits for a claimed row any more, it is requeued at once, even if the loop of
its receiver has ended.  No claim begins until that is done, so the next claim finds the row in its
old place.

Thread: any.  One lock guards the due channels and the current claim.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from functools import partial

from channels_lite.clock import Clock
from channels_lite.delivery.availability import CLAIMS, Availability
from channels_lite.delivery.plain import AllMailboxes
from channels_lite.delivery.stats import Stats
from channels_lite.failpoints import reach
from channels_lite.loops import soon
from channels_lite.store import Execute, Outcome, Store, sql
from channels_lite.store.sql import Claimed
from channels_lite.wake import sign_of

__all__ = ["Claims"]


class Claims:
    """Claims and requeues rows."""

    def __init__(
        self,
        *,
        store: Store,
        mailboxes: AllMailboxes,
        clock: Clock,
        stats: Stats,
        decrypt: Callable[[bytes], bytes | None],
        wake: Callable[[Iterable[str]], None],
        pass_on: Callable[[Iterable[str]], None],
        availability: Availability,
        is_in_memory: bool,
    ) -> None:
        self._store = store
        self._mailboxes = mailboxes
        self._clock = clock
        self._stats = stats
        self._decrypt = decrypt
        #: Wakes the receivers of plain channels, in all processes.
        self._wake = wake
        #: Gives a turn at these channels to another process: see `wake.queues`.
        self._pass_on = pass_on
        self._availability = availability
        self._is_in_memory = is_in_memory
        self._lock = threading.Lock()
        self._due: set[str] = set()
        #: The loop that began the current claim.
        self._claiming: asyncio.AbstractEventLoop | None = None
        #: Rows that could not be requeued; and the number of current requeues.
        self._unwanted: list[tuple[str, Claimed]] = []
        self._requeues = 0
        self.is_open = True

    def woken(self, signs: frozenset[int]) -> None:
        """A row was written to a channel with one of these signs; 0 means any channel."""
        channels = self._mailboxes.plain_channels()
        if 0 not in signs:
            channels = {each for each in channels if sign_of(each) in signs}
        if channels:
            self.ask(channels)

    def wait(self, channel: str, *, has_turn: bool) -> None:
        """A coroutine begins to wait.  Without a turn, the next row wakes this process."""
        if has_turn:
            self.ask((channel,))

    def ask(self, channels: Iterable[str]) -> None:
        """Claims for receivers on these channels.  Call it on a running loop.  One at a time."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._due.update(channels)
            # A stopped loop may never continue.
            is_claiming = self._claiming is not None and self._claiming.is_running()
            if is_claiming or self._requeues or not self.is_open or not self._due:
                return
            self._claiming = loop
            due, self._due = self._due, set()
        wanted = self._mailboxes.wanted(due)
        if len(wanted) < len(due):
            self._pass_on(due - wanted.keys())
        if not wanted:
            self._claiming = None
            self._availability.has_no_error(CLAIMS)
            return

        def work(execute: Execute) -> tuple[dict[str, list[Claimed]], set[str]]:
            left: set[str] = set()
            now = self._clock.now_or_origin()  # at each attempt
            claimed = sql.claim(execute, wanted, now, left, is_in_transaction=self._is_in_memory)
            return claimed, left

        self._store.submit(work, partial(self._claimed, loop))

    def _claimed(
        self,
        loop: asyncio.AbstractEventLoop,
        outcome: Outcome[tuple[dict[str, list[Claimed]], set[str]]],
    ) -> None:
        are_wanted = True
        try:
            claimed, left = outcome.value or ({}, set())
            if left:
                self._pass_on(left)
            if claimed:
                reach("after_claim")
            for name, rows in claimed.items():
                whole = self._opened(rows)
                if len(whole) < len(rows):
                    with self._lock:
                        self._due.add(name)  # a dropped message serves no receiver
                are_wanted &= self._mailboxes.put_claimed(name, whole)
            if outcome.error is not None:
                self._availability.failed(CLAIMS, outcome.error)
            else:
                self._availability.worked(CLAIMS, has_found=bool(claimed))
        finally:
            with self._lock:
                if self._claiming is loop:
                    self._claiming = None
                # After an error, the timer asks again, for all channels.
                again = bool(self._due) and outcome.error is None
        if not are_wanted or self._unwanted:
            self.requeue()
        if again:
            soon(loop, partial(self.ask, ()))

    def _opened(self, rows: Iterable[Claimed]) -> list[tuple[Claimed, bytes]]:
        """The rows with their data decrypted, without those that are to be dropped."""
        opened = []
        now = self._clock.now_or_origin()
        for row in rows:
            if row.expires_at <= now:  # while the claim waited
                self._stats.expired += 1
            elif (data := self._decrypt(row.data)) is not None:
                opened.append((row, data))
        return opened

    def requeue(self, done: Callable[[], object] = lambda: None) -> None:
        """Requeues claimed rows for which no coroutine waits any more.  Then calls ``done``."""
        unwanted = self._mailboxes.unwanted()
        with self._lock:
            unwanted += self._unwanted
            self._unwanted = []
            self._requeues += bool(unwanted)
        if not unwanted:
            done()
            return
        work = partial(sql.requeue, unwanted=unwanted)
        self._store.persist(work, partial(self._requeued, unwanted, done))

    def _requeued(
        self,
        unwanted: list[tuple[str, Claimed]],
        done: Callable[[], object],
        outcome: Outcome[None],
    ) -> None:
        with self._lock:
            self._requeues -= 1
            if outcome.error is not None:
                self._unwanted += unwanted  # the timer tries again
            is_due = bool(self._due) and not self._requeues
        if outcome.error is None:
            self._wake({name for name, _ in unwanted})
        if is_due:
            for loop in self._mailboxes.loops():
                soon(loop, partial(self.ask, ()))
        done()
