"""Which generation of the table this process works with.

Ids and times mean something within one generation only: ``manage.py flush``, a file that was
restored or replaced, and a new row of boots begin another one.  It is asked before the first
message, with each look and with each row put, and frames say which one their sender knows.  When it
ends, cursors, last rows, rooms and the clock end together.

Whoever finds that ids have begun again, with a look or with a row put, begins another one for all.
In an in-memory database, which is one process's, there is nobody else to tell.

Thread: any.  One lock: a generation begins once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from django.core.exceptions import ImproperlyConfigured

from channels_lite.clock import Clock, boot_id
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.frames import FrameSender
from channels_lite.delivery.mailboxes import Mailboxes
from channels_lite.delivery.outgoing import Outgoing
from channels_lite.errors import StoreUnavailable
from channels_lite.loops import soon
from channels_lite.store import Execute, Outcome, Store, sql, upkeep
from channels_lite.store.django import transaction_of_caller
from channels_lite.store.occupancy import Occupancy

__all__ = ["Generations"]

# Seconds after which looks that find no generation have one begun again: another transaction may
# have begun it, which looks cannot read yet.
TRY_AGAIN = 1.0

logger = logging.getLogger(__name__)


class Generations:
    """The generation, for those that keep something of it."""

    def __init__(
        self,
        *,
        database: str,
        store: Store,
        clock: Clock,
        cursors: Cursors,
        mailboxes: Mailboxes,
        frames: FrameSender,
        occupancy: Occupancy,
        outgoing: Outgoing,
        are_others_alive: Callable[[], bool],
        look: Callable[[], None],
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._cursors = cursors
        self._mailboxes = mailboxes
        self._frames = frames
        self._occupancy = occupancy
        self._outgoing = outgoing
        #: Processes other than this one, whatever they call the machine's boot.
        self._are_others_alive = are_others_alive
        self._look = look
        self._lock = threading.Lock()
        self._begin_again_at = 0.0
        self._asking: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    async def ask(self) -> float:
        """Before anything else: by which clock messages expire.  The time."""
        loop = asyncio.get_running_loop()
        now = 0.0
        while not now:  # it may be over again, before this coroutine goes on
            asking = self._asking.get(loop)
            if asking is None:  # one for all that wait: they go on in the order in which they came
                asking = self._asking[loop] = loop.create_task(self._ask())
                asking.add_done_callback(lambda _: self._asking.pop(loop))
            await asyncio.shield(asking)
            now = self._clock.now()
        return now

    async def _ask(self) -> None:
        boot, began_at = boot_id(), self._clock.origin()
        is_alone = not self._are_others_alive()

        def operation(execute: Execute, batch: sql.Batch) -> upkeep.Boot:
            with batch.transaction(execute):
                return upkeep.begin_boot(execute, boot, began_at, is_alone=is_alone)

        known = None
        if transaction_of_caller(self._database) is None:  # which could keep others from reading
            find = partial(upkeep.boot, boot_id=boot, began_at=began_at, is_alone=is_alone)
            known = await self._outgoing.read(find)
        if known is None:
            known = await self._outgoing.write(operation)
        self.begin(known.generation, known.began_at)

    async def hear_of_flush(self) -> None:
        """Where nobody was woken for it: what is in memory may be void."""
        try:
            table = await self._outgoing.read(sql.table)
        except (StoreUnavailable, ImproperlyConfigured):
            return  # what is in memory needs no database
        if table.generation > self._clock.generation:  # and not one that is over by now
            self.begin(table.generation, table.began_at)
        if self._cursors.flush(table.flushed):
            self._mailboxes.void(table.flushed)

    def begin(self, generation: int, began_at: float | None = None) -> None:
        """Works with this generation from now on; without ``began_at`` the clock is to be asked."""
        with self._lock:
            # From 0 on it is the same table, which has a number by now.
            if self._clock.generation not in (generation, 0):
                self._forget_put()
            if began_at is None:
                self._clock.forget(generation)
            else:
                before = self._clock.last_began_at
                if before is not None and before != began_at:
                    self._mailboxes.shift(began_at - before)
                self._clock.set(began_at, generation)
            if self._cursors.generation != generation:
                self._cursors.begin(generation)

    def begin_by(self, batch: sql.Batch) -> None:
        """A batch of this process has met another generation, or ids that have begun again."""
        generation = batch.generation or 0
        if generation != self._clock.generation:
            self.begin(generation)
        elif batch.is_rewound:
            self._begin_again()

    def _begin_again(self) -> None:
        """Ids have, in an in-memory database, which is this process's alone: it needs no number."""
        with self._lock:
            self._forget_put()
            self._cursors.begin(self._clock.generation)

    def _forget_put(self) -> None:
        self._frames.forget_rows()
        self._occupancy.forget()

    def is_over(self, loop: asyncio.AbstractEventLoop, asked: sql.Look, table: sql.Table) -> bool:
        """A look has found another generation than it asked for.  True: look again."""
        if asked.deletes:
            self._begin_again()
            return True
        if not table.generation:
            # The row is gone; somebody has to put a new one.
            self.begin(0)
            if time.monotonic() >= self._begin_again_at:
                self._begin_again_at = time.monotonic() + TRY_AGAIN
                soon(loop, partial(self._ask_and_look, loop))
            return False
        if table.generation != asked.generation:
            self.begin(table.generation, table.began_at)
            return True
        # Ids have begun again, and nobody has said so: a file was restored in its place.
        renew = partial(sql.renew, generation=table.generation)
        self._store.transact(renew, partial(self._renewed, loop))
        return False

    def _renewed(self, loop: asyncio.AbstractEventLoop, outcome: Outcome[None]) -> None:
        if outcome.error is None:  # else the next one that sees it tries again
            soon(loop, self._look)

    def _ask_and_look(self, loop: asyncio.AbstractEventLoop) -> None:
        async def ask() -> None:
            try:
                await self.ask()
            except (StoreUnavailable, ImproperlyConfigured) as error:
                logger.warning(
                    "the database cannot be used anew yet, and is tried again: %s", error
                )
            else:
                self._look()

        self._renewing = loop.create_task(ask())  # or nothing would keep it
