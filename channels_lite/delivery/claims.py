"""RECEIVE, from plain channels: rows that several processes may take, so one has to claim them.

A claim takes the write lock, which another program may hold for long; so claims are queued
apart, and nobody waits for them but the receivers of these channels.  It asks only about channels
that were woken for or are due: somebody has just begun to receive there, or the clock says so.

A claimed row that nobody here waits for any more is given back at once, whatever becomes of the
loop that its receiver was on; until that is done no claim begins, so that it finds the row in its
old place.

Thread: any.  One lock guards what is due and what is under way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from functools import partial

from channels_lite.clock import Clock
from channels_lite.delivery.availability import CLAIMS, Availability
from channels_lite.delivery.plain import AllMailboxes
from channels_lite.failpoints import reach
from channels_lite.loops import soon
from channels_lite.store import Outcome, Store, sql
from channels_lite.store.sql import Claimed
from channels_lite.wake import sign_of

__all__ = ["Claims"]


class Claims:
    """What is claimed and given back."""

    def __init__(
        self,
        *,
        store: Store,
        mailboxes: AllMailboxes,
        clock: Clock,
        decrypt: Callable[[bytes], bytes | None],
        wake: Callable[[Iterable[str]], None],
        availability: Availability,
        is_in_memory: bool,
    ) -> None:
        self._store = store
        self._mailboxes = mailboxes
        self._clock = clock
        self._decrypt = decrypt
        #: Wakes the receivers of plain channels, in all processes.
        self._wake = wake
        self._availability = availability
        self._is_in_memory = is_in_memory
        self._lock = threading.Lock()
        self._due: set[str] = set()
        #: The loop that began the claim under way.
        self._claiming: asyncio.AbstractEventLoop | None = None
        #: Rows that could not be given back; and how many times some are being given back now.
        self._unwanted: list[tuple[str, Claimed]] = []
        self._requeues = 0
        self.is_open = True

    def woken(self, signs: frozenset[int]) -> None:
        """Somebody has put a row into a channel with one of these signs; 0 is for any."""
        channels = self._mailboxes.plain_channels()
        if 0 not in signs:
            channels = {each for each in channels if sign_of(each) in signs}
        if channels:
            self.ask(channels)

    def ask(self, channels: Iterable[str]) -> None:
        """Claims for those that wait on these channels.  On a running loop; one at a time."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._due.update(channels)
            # A loop that has stopped may never go on.
            is_claiming = self._claiming is not None and self._claiming.is_running()
            if is_claiming or self._requeues or not self.is_open or not self._due:
                return
            self._claiming = loop
            due, self._due = self._due, set()
        wanted = self._mailboxes.wanted(due)
        if not wanted:
            self._claiming = None
            self._availability.has_no_error(CLAIMS)
            return
        work = partial(
            sql.claim, wanted=wanted, now=self._clock.now(), is_in_transaction=self._is_in_memory
        )
        self._store.submit(work, partial(self._claimed, loop))

    def _claimed(
        self,
        loop: asyncio.AbstractEventLoop,
        outcome: Outcome[dict[str, list[Claimed]]],
    ) -> None:
        try:
            claimed = outcome.value or {}
            if claimed:
                reach("after_claim")
            for name, rows in claimed.items():
                opened = [(row, self._decrypt(row.data)) for row in rows]
                whole = [(row, data) for row, data in opened if data is not None]
                if len(whole) < len(rows):
                    with self._lock:
                        self._due.add(name)  # what was dropped is nobody's message
                self._mailboxes.put_claimed(name, whole)
            if outcome.error is not None:
                self._availability.failed(CLAIMS, outcome.error)
            else:
                self._availability.worked(CLAIMS, has_found=bool(claimed))
        finally:
            with self._lock:
                if self._claiming is loop:
                    self._claiming = None
                # After an error the clock asks again, for all.
                again = bool(self._due) and outcome.error is None
        self.requeue()
        if again:
            soon(loop, partial(self.ask, ()))

    def requeue(self, done: Callable[[], object] = lambda: None) -> None:
        """Gives back what was claimed and nobody here waits for any more, if there is any.

        ``done`` is called then.
        """
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
                self._unwanted += unwanted  # the clock tries again
            is_due = bool(self._due) and not self._requeues
        if outcome.error is None:
            self._wake({name for name, _ in unwanted})
        if is_due:
            for loop in self._mailboxes.loops():
                soon(loop, partial(self.ask, ()))
        done()
