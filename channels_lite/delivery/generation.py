"""The generation of the table that this process works with.

Ids and times are valid only within one generation.  ``manage.py flush``, a restored or replaced
file, and a new row of boots begin another one.  The process reads it before the first message, with
each look and with each written row; frames carry the one that their sender knows.  When it ends,
cursors, last rows, occupancy and the clock end together.

A process that finds that ids have started again, with a look or with a written row, begins another
generation for all processes.  An in-memory database belongs to one process, so only its own state
ends.

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
from channels_lite.wake.presence import Presence

__all__ = ["Generations"]

# Seconds between two attempts to begin a generation, if looks find none: another transaction may
# have begun it, and looks cannot read it yet.
TRY_AGAIN = 1.0

logger = logging.getLogger(__name__)


class Generations:
    """Begins a generation in all parts that keep state of it."""

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
        presence: Presence | None,
        begin_use: Callable[[], None],
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
        #: Where other processes are; None for an in-memory database, which has no others.
        self._presence = presence
        #: Called before the first read of the table.
        self._begin_use = begin_use
        self._look = look
        self._lock = threading.Lock()
        self._begin_again_at = 0.0
        self._asking: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    async def ask(self) -> float:
        """Called first: finds the clock by which messages expire.  Returns the time."""
        loop = asyncio.get_running_loop()
        now = 0.0
        while not now:  # the generation may end again before this coroutine continues
            asking = self._asking.get(loop)
            if asking is None:  # one task for all that wait: they continue in their order
                asking = self._asking[loop] = loop.create_task(self._ask())
                asking.add_done_callback(lambda _: self._asking.pop(loop))
            await asyncio.shield(asking)
            now = self._clock.now()
        return now

    async def _ask(self) -> None:
        self._begin_use()
        boot, presence = boot_id(), self._presence
        # Whatever others call the machine's boot: containers have ids of their own.
        is_alone = presence is None or not presence.are_others_alive()
        kept = presence.origin(boot) if presence and boot else None
        began_at = self._clock.origin(kept)

        def operation(execute: Execute, batch: sql.Batch) -> upkeep.Boot:
            with batch.transaction(execute):
                return upkeep.begin_boot(execute, boot, began_at, is_alone=is_alone)

        known = None
        if transaction_of_caller(self._database) is None:  # it could block other readers
            find = partial(upkeep.boot, boot_id=boot, began_at=began_at, is_alone=is_alone)
            known = await self._outgoing.read(find)
        if known is None:
            known = await self._outgoing.write(operation)
        self.begin(known.generation, known.began_at)
        if presence and boot and kept != known.began_at:
            presence.keep_origin(boot, known.began_at)

    async def hear_of_flush(self) -> None:
        """Checks the table for a flush, where no look has run: it may void messages in memory."""
        try:
            table = await self._outgoing.read(sql.table)
        except (StoreUnavailable, ImproperlyConfigured):
            return  # messages in memory need no database
        if table.generation > self._clock.generation:  # not one that has ended since the read
            self.begin(table.generation, table.began_at)
        if self._cursors.flush(table.flushed):
            self._mailboxes.void(table.flushed)

    def begin(self, generation: int, began_at: float | None = None) -> None:
        """Works with this generation from now on.  Without ``began_at``, reads the clock again."""
        with self._lock:
            # After 0 it is the same table, which has a number now.
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
        """A batch of this process has found another generation, or ids that have started again."""
        generation = batch.generation or 0
        if generation != self._clock.generation:
            self.begin(generation)
        elif batch.is_rewound:
            self._begin_again()

    def _begin_again(self) -> None:
        """Ids have started again in an in-memory database.  No other process needs a number."""
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
            # The row is gone, and must be written again.
            self.begin(0)
            if time.monotonic() >= self._begin_again_at:
                self._begin_again_at = time.monotonic() + TRY_AGAIN
                soon(loop, partial(self._ask_and_look, loop))
            return False
        if table.generation != asked.generation:
            self.begin(table.generation, table.began_at)
            return True
        # Ids have started again without a new generation: a file was restored.
        renew = partial(sql.renew, generation=table.generation)
        self._store.transact(renew, partial(self._renewed, loop))
        return False

    def _renewed(self, loop: asyncio.AbstractEventLoop, outcome: Outcome[None]) -> None:
        if outcome.error is None:  # otherwise the next look tries again
            soon(loop, self._look)

    def _ask_and_look(self, loop: asyncio.AbstractEventLoop) -> None:
        async def ask() -> None:
            try:
                await self.ask()
            except (StoreUnavailable, ImproperlyConfigured) as error:
                logger.warning("the database cannot be used yet, and will be retried: %s", error)
            else:
                self._look()

        self._renewing = loop.create_task(ask())  # keeps a reference to the task
