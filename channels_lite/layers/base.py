"""SEND and RECEIVE: the channel-layer specification, once, for all three layers.

A layer is a store (where rows are) and a waiter (how a receiver learns of them).  Between them and
Channels stand the outbox, which sends what one loop iteration sends, and the inbox, which holds
what came until somebody receives it.

A message's way: ``send`` > serializers > outbox > frames > reader > inbox > ``receive``; or, where
a row is needed, outbox > store, sql.post > [commit] > csrc/wake.c > waiter > reader > store,
sql.look > inbox.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer
from django.core.exceptions import ImproperlyConfigured

from channels_lite import process, signals
from channels_lite.clock import Clock, boot_id, ticks
from channels_lite.config import Config
from channels_lite.errors import ForeignChannel, InvalidMessage
from channels_lite.failpoints import reach
from channels_lite.frames import FrameSender
from channels_lite.groups import Groups
from channels_lite.inbox import Inbox
from channels_lite.loops import TURN, call_on, is_ending
from channels_lite.names import require_valid, split
from channels_lite.outbox import Operation, Outbox, T
from channels_lite.reader import Reader
from channels_lite.serializers import SerializerDoesNotExist, UndecodableMessage, registry
from channels_lite.stats import Stats
from channels_lite.store import Execute, Outcome, Store, is_in_memory, sql, upkeep
from channels_lite.store.connection import Source
from channels_lite.store.django import DjangoStore, run_in_transaction_of, transaction_of_caller
from channels_lite.store.rooms import Rooms
from channels_lite.wake import Waiter
from channels_lite.wake.hooks import hooks

__all__ = ["MAX_MESSAGE_SIZE", "BaseSQLiteChannelLayer"]

logger = logging.getLogger(__name__)

#: Bytes of an encoded message at most.  The specification asks for 1 MB; a row could be 1 GB, but
#: every reader of the table, and the log, would have to carry it.
MAX_MESSAGE_SIZE = 64 * 1024 * 1024
# The key under which a message carries the trace that it was sent in; no handler sees it.
TRACE = "__channels_lite_trace__"


class Traced(Protocol):
    """From what a message carried, which can be anything, to the message that is received."""

    def __call__(self, channel: str, message: dict[str, Any], carrier: object) -> dict[str, Any]:
        """Raises nothing."""


class BaseSQLiteChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """What the three layers are, but for their store and waiter.

    ``CONFIG`` is documented, with defaults and units, at ``channels_lite.config.Config``.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    #: What `channels_lite.otel.install` makes of a message that carries a trace.
    traced: ClassVar[Traced | None] = None

    #: Where rows are.
    store_class: ClassVar[type[Store]]
    #: Seconds between two looks, unless CONFIG says other.
    default_interval: ClassVar[float] = 0.1

    # ASCII only, and no newline at the end, which the expressions in channels.layers let through.
    channel_name_regex = re.compile(r"[a-zA-Z0-9\-_.]+(![a-zA-Z0-9\-_.]*)?")
    group_name_regex = re.compile(r"[a-zA-Z0-9\-_.]+")

    def __init__(self, **values: Any) -> None:
        config = Config.of(type(self).__name__, values)
        super().__init__(expiry=config.expiry, capacity=config.capacity)
        self.channel_capacity = self.compile_capacities(dict(config.channel_capacity or {}))
        self.config = config
        self.database = config.database
        self.group_expiry = config.group_expiry
        try:
            self.serializer = registry.get_serializer(
                config.serializer_format, config.symmetric_encryption_keys
            )
        except SerializerDoesNotExist as error:
            raise ImproperlyConfigured(
                f"{type(self).__name__}: CONFIG['serializer_format']: {error.args[0]}"
            ) from None
        self._source = Source(config.database)
        in_memory = is_in_memory(config.database)
        self._clock = Clock()
        if in_memory:
            self._clock.set(time.time() - ticks())
        self._store = (DjangoStore if in_memory else self.store_class)(
            config.database, config.pool_size
        )
        self._reader = Reader(
            self._store,
            self.serializer,
            config,
            self.default_interval,
            self._wake,
            clock=self._clock,
            is_in_memory=in_memory,
        )
        self._start_process()
        self._waiter = self._reader.waiter = self.make_waiter(self._reader)
        process.layers.add(self)

    def _start_process(self) -> None:
        """What belongs to one process: made anew in a forked child."""
        #: Part of every process-local channel's name, and the name of this process's FIFO.
        self.client_prefix = uuid.uuid4().hex
        self.stats = Stats()
        self._inbox = Inbox(self._limit, self.stats)
        self._rooms = Rooms(self._limit, self._inbox.cursor, self._inbox.buffered)
        self._groups = Groups(self._store)
        self._frames = FrameSender(
            self.client_prefix, lambda: os.fsdecode(self._source.sidecar_bytes), self._limit
        )
        self._numbers = itertools.count()
        #: Messages received without waiting, so that no other coroutine had its turn.
        self._taken = 0
        #: Messages handed over within this process, so that no other coroutine had its turn.
        self._handed_over = 0
        self._outboxes: dict[asyncio.AbstractEventLoop, Outbox] = {}
        self._setting_clock: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._lock = threading.Lock()
        self._reader.start(self._inbox, self.client_prefix, self.stats)

    def make_waiter(self, reader: Reader) -> Waiter:
        """How ``reader`` learns of rows."""
        raise NotImplementedError

    @property
    def polling_reason(self) -> str:
        """Why receivers poll; "" if they sleep until they are woken.  Known once one has waited."""
        return self._waiter.reason

    @property
    def look_interval(self) -> float:
        """Seconds between two looks for rows that nobody was woken for."""
        return self._reader.interval()

    # Names

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """True, or ``TypeError`` that says what is wrong."""
        require_valid("Channel", name, self.channel_name_regex, self.MAX_NAME_LENGTH)
        if receive and "!" in str(name) and not str(name).endswith("!"):
            raise TypeError("Specific channel names in receive() must end at the !")
        return True

    def require_valid_group_name(self, name: object) -> bool:
        """True, or ``TypeError`` that says what is wrong."""
        require_valid("Group", name, self.group_name_regex, self.MAX_NAME_LENGTH)
        return True

    async def new_channel(self, prefix: str = "specific") -> str:
        """A channel that only this process receives on: ``prefix.<process>!<number>``."""
        name = f"{prefix}.{self.client_prefix}!"
        channel = f"{name}{next(self._numbers):x}"
        self.require_valid_channel_name(channel)
        self._inbox.own(name)
        return channel

    # Sending

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Gives ``message``, a dict or a TypedDict, to one receiver of ``channel``, now or later.

        Inside ``atomic()`` on the layer's database it belongs to the transaction.

        Raises ``TypeError`` (``InvalidMessage`` for the message), ``ChannelFull``,
        ``MessageTooLarge``, ``StoreUnavailable``; nothing was sent then.
        """
        self.require_valid_channel_name(channel)
        data = self._encode(message)
        now = self._clock.now() or await self._set_clock()
        post = sql.Post(*split(channel), channel, data, now, now + self.expiry)
        if transaction_of_caller(self.database) is not None:
            full = await self._write(partial(sql.post_all, messages=self._encrypted([post])))
        else:
            full = await self._post([post])
        if full:
            self.stats.full += 1
            signals.send(signals.channel_full, self.database, channel=channel, group=None, count=1)
            await self._give_turn()  # whoever tries again at once would hold the loop
            raise ChannelFull(channel)
        self.stats.sent += 1

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Gives ``message`` to every member of ``group``; those that are full miss it.

        Raises what ``send`` does, but for ``ChannelFull``; after ``StoreUnavailable`` some members,
        those that need no row, have it.
        """
        self.require_valid_group_name(group)
        data = self._encode(message)
        now = self._clock.now() or await self._set_clock()

        def posts(members: list[sql.Member]) -> list[sql.Post]:
            return [
                sql.Post(name, recipients, name, data, now, now + self.expiry)
                for name, recipients, _ in members
            ]

        def operation(execute: Execute, batch: sql.Batch) -> int:
            members = sql.group_members(execute, group, now)
            return sql.post_all(execute, batch, self._encrypted(posts(members)))

        if transaction_of_caller(self.database) is not None:
            full = await self._write(operation)
        else:
            find = partial(self._groups.members, group=group, now=now)
            full = await self._post(posts(await self._read(find)))
        self.stats.group_sent += 1
        if full:
            self.stats.full += full
            logger.info("group %s: %d channels over capacity missed a message", group, full)
            signals.send(signals.channel_full, self.database, channel=None, group=group, count=full)

    def _encode(self, message: Mapping[str, Any]) -> bytes:
        if not isinstance(message, dict):
            raise InvalidMessage(f"a message must be a dict, not a {type(message).__name__}")
        if "__asgi_channel__" in message:
            raise InvalidMessage("a message must not contain the key __asgi_channel__")
        data = self.serializer.encode(message)
        if len(data) > MAX_MESSAGE_SIZE:
            raise MessageTooLarge(f"{len(data)} bytes, and {MAX_MESSAGE_SIZE} are the most")
        return data

    async def _post(self, posts: list[sql.Post]) -> int:
        """Hands messages over, or stores them; returns how many were for full channels."""
        full = 0
        away = []
        for post in posts:
            if not self._is_ours(post.name):
                away.append(post)
                continue
            if self._inbox.has_waiting(post):
                # Those that wait have been called, and make room when they have their turn.
                await self._give_turn()
            refused = self._inbox.hand_over(post)
            if refused is None:
                away.append(post)
                continue
            full += refused
            self._handed_over += 1
            if self._handed_over >= TURN:
                await self._give_turn()
        return full + await self._outbox().post(self._encrypted(away)) if away else full

    async def _give_turn(self) -> None:
        """Lets the other coroutines run: nothing else in handing over does."""
        self._handed_over = 0
        await asyncio.sleep(0)

    def _is_ours(self, name: str) -> bool:
        """Whether this process itself receives there, and has read what it was sent before."""
        is_local = name.endswith("!") and name[:-1].endswith(self.client_prefix)
        return is_local and self._frames.last_row(name) <= self._inbox.seen(name)

    def _encrypted(self, posts: list[sql.Post]) -> list[sql.Post]:
        """The posts of one message as they leave the process."""
        if posts and self.serializer.crypter is not None:
            data = self.serializer.encrypt(posts[0].data)
            for post in posts:
                post.data = data
        return posts

    async def _write(
        self, operation: Operation[T], and_then: Callable[[T], None] = lambda value: None
    ) -> T:
        """Commits ``operation``, or has the caller's transaction do it; then calls ``and_then``."""
        caller = transaction_of_caller(self.database)
        if caller is None:
            value = await self._outbox().write(operation)
            and_then(value)
            return value

        def work(execute: Execute) -> tuple[T, sql.Batch]:
            batch = sql.Batch(self._clock.now(), self._rooms.unremembered())
            return operation(execute, batch), batch

        def on_commit(done: tuple[T, sql.Batch]) -> None:
            self._wake(done[1].posted)
            and_then(done[0])

        return (await run_in_transaction_of(caller, self.database, work, on_commit))[0]

    async def _read(self, query: Callable[[Execute], T]) -> T:
        loop = asyncio.get_running_loop()
        found: list[Outcome[T]] = []
        future: asyncio.Future[None] | None = None

        def read() -> None:
            if future is not None and not future.done():
                future.set_result(None)

        def done(outcome: Outcome[T]) -> None:
            found.append(outcome)
            call_on(loop, read)

        self._store.submit(query, done, write=False)
        if not found:  # it was not read at once
            future = loop.create_future()
            await future
        return found[0].result()

    async def _set_clock(self) -> float:
        """Before anything else: by which clock messages expire.  The time."""
        loop = asyncio.get_running_loop()
        setting = self._setting_clock.get(loop)
        if setting is None:  # one for all that wait: they go on in the order in which they came
            setting = self._setting_clock[loop] = loop.create_task(self._ask_for_clock())
            setting.add_done_callback(lambda _: self._setting_clock.pop(loop))
        await asyncio.shield(setting)
        return self._clock.now()

    async def _ask_for_clock(self) -> None:
        boot, began_at = boot_id(), time.time() - ticks()

        def operation(execute: Execute, batch: sql.Batch) -> float:
            with batch.transaction(execute):
                return upkeep.begin_boot(execute, boot, began_at)

        known = None
        if transaction_of_caller(self.database) is None:  # which could keep others from reading
            known = await self._read(partial(upkeep.boot, boot_id=boot))
        if known is None:
            known = await self._write(operation)
        self._clock.set(known)
        self._source.opened()

    def _outbox(self) -> Outbox:
        loop = asyncio.get_running_loop()
        outbox = self._outboxes.get(loop)
        if outbox is None:
            outbox = Outbox(loop, self._store, self._batch, self._frames.send, self._wake)
            with self._lock:
                # Loops come and go by the thousand under async_to_sync.
                known = {each: box for each, box in self._outboxes.items() if not each.is_closed()}
                self._outboxes = known | {loop: outbox}
        return outbox

    def _batch(self, is_alone: bool) -> sql.Batch:
        return sql.Batch(self._clock.now(), self._rooms, is_alone)

    def _limit(self, channel: str) -> int | None:
        return self.get_capacity(channel) if self.config.enforce_capacity else None

    def _wake(self, names: dict[str, int]) -> None:
        """W3, after each commit of ours; the hooks do it for everybody else's."""
        if names:
            reach("after_commit")
        for name, row in names.items():
            self._frames.put_row(name, row)
            hooks.wake(self._source.sidecar_bytes, name)
        if names:
            self._waiter.nudge()

    # Receiving

    async def receive(self, channel: str) -> dict[str, Any]:
        """The next message of ``channel``; waits for one.

        May be cancelled at any time: no message is lost by it.  Several coroutines may wait for one
        channel, on any loops; each message goes to one.

        Raises ``TypeError`` for an invalid name, and ``ForeignChannel`` for a process-local channel
        of another process.
        """
        # On a name of this process that new_channel() did not make, rows may wait already.
        is_new_name = not self._inbox.is_served(channel) and self._own(channel)
        if self._clock.began_at is None:
            await self._set_clock()
        loop = asyncio.get_running_loop()
        is_plain = "!" not in channel
        receiver = None
        if self._taken >= TURN:
            self._taken = 0
            await asyncio.sleep(0)
        while True:
            parcel = self._inbox.take(channel, self._clock.now(), receiver)
            if parcel is not None:
                self._taken = self._taken + 1 if receiver is None else 0
                message = self._decode(channel, parcel.data)
                if message is not None:
                    self.stats.received += 1
                    if self.stats.observe is not None:
                        sent_at = parcel.expires_at - self.expiry
                        self.stats.observe(max(0.0, self._clock.now() - sent_at))
                    return message
            receiver = self._inbox.wait(channel, loop)
            try:
                if self._waiter.watch(loop) or is_new_name or is_plain:
                    self._arm(channel, loop)
                await receiver
            except BaseException:
                if self._inbox.leave(channel, receiver) and is_plain:
                    self._reader.release_later(loop)
                raise

    def _arm(self, channel: str, loop: asyncio.AbstractEventLoop) -> None:
        if "!" not in channel:
            # What came while nobody waited was left to other processes.
            self._waiter.listen(channel)
        self._reader.open()
        self._reader.look()
        loop.call_soon(self._reader.sweep)

    def _decode(self, channel: str, data: bytes) -> dict[str, Any] | None:
        try:
            message = self.serializer.decode(data)
        except UndecodableMessage as error:
            self.stats.undecodable += 1
            logger.error("a message to %s was dropped: %s", channel, error)
            return None
        # Also where nothing is traced: the sender's process may do it.
        carrier = message.pop(TRACE, None)
        if carrier is not None and self.traced is not None:
            return self.traced(channel, message, carrier)
        return message

    def _own(self, channel: str) -> bool:
        self.require_valid_channel_name(channel)
        if "!" not in channel:
            return False
        name = split(channel)[0]
        if not name.endswith(f"{self.client_prefix}!"):
            raise ForeignChannel(
                f"{channel} is another process's: only what made a channel by new_channel() can "
                "receive on it"
            )
        return self._inbox.own(name)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Makes ``channel`` a member of ``group`` for ``group_expiry`` seconds from now."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        expires_at = (self._clock.now() or await self._set_clock()) + self.group_expiry
        self._reader.has_joined = True

        def operation(execute: Execute, batch: sql.Batch) -> None:
            sql.join(execute, group, channel, batch.now, expires_at)

        await self._write(operation)

    async def group_discard(self, group: str, channel: str) -> None:
        """Ends a membership; nothing happens if there is none."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)

        def operation(execute: Execute, batch: sql.Batch) -> None:
            sql.leave(execute, group, channel)

        await self._write(operation)

    async def group_channels(self, group: str) -> list[str]:
        """The members of ``group``, sorted: full names.  An extra beside the specification.

        Those of processes that were killed are among them until they are cleaned up.
        """
        self.require_valid_group_name(group)
        now = self._clock.now() or await self._set_clock()
        find = partial(sql.group_members, group=group, now=now)
        if transaction_of_caller(self.database) is not None:
            members = await self._write(lambda execute, _: find(execute))
        else:
            members = await self._read(find)
        return sorted(
            member.name + recipient
            for member in members
            for recipient in member.recipients.split(",")
        )

    # The rest

    async def flush(self) -> None:
        """Deletes all messages and groups, in the table and in the memory of every process."""

        if self._clock.began_at is None:
            await self._set_clock()
        boot, began_at = boot_id(), self._clock.began_at or 0.0

        def operation(execute: Execute, batch: sql.Batch) -> sql.FlushMark:
            with batch.transaction(execute):
                upkeep.flush(execute, batch.now, boot, began_at)
                return sql.FlushMark(*execute(sql.FLUSH_MARK, ())[0])

        def tell(flushed: sql.FlushMark) -> None:
            for layer in list(process.layers):  # others of this process need not look to know
                layer._after_flush(self._source.path, flushed)
            hooks.wake_all(self._source.sidecar_bytes)

        await self._write(operation, tell)

    def _after_flush(self, path: Path, flushed: sql.FlushMark) -> None:
        if self._source.path == path:
            self._inbox.clear(flushed)

    async def clean_expired(
        self, on_step: Callable[[int], None] = lambda seen: None, kept: int = upkeep.KEPT
    ) -> int:
        """Deletes every expired message and membership, in steps.  Returns how many.

        ``on_step`` is told after each step how many rows, live or expired, were looked at so far.
        Then free pages, but for ``kept`` (1000), go back to the file system, where migrations
        could see to it: in a database of the channels' own.
        """
        if self._clock.began_at is None:
            await self._set_clock()
        deleted = 0
        is_callers = transaction_of_caller(self.database) is not None
        sweep = upkeep.Sweep((), None if is_callers or is_in_memory(self.database) else kept)
        while not sweep.is_done:
            if is_callers:
                deleted += await self._write(lambda execute, batch: sweep.step(execute, batch.now))
            else:
                deleted += await self._read(partial(sweep.step, now=self._clock.now()))
            on_step(sweep.seen)
        return deleted

    async def close(self) -> None:
        """Gives back what the layer holds.  It works again when it is used again.

        Which it is at once by who still waits in ``receive()``, on whatever loop.
        """
        loop = asyncio.get_running_loop()
        has_given_back = loop.create_future()
        try:
            self._reader.close(partial(call_on, loop, _set, has_given_back))
            if transaction_of_caller(self.database) is None:  # whose lock it would wait for
                await has_given_back
            self._frames.close()
            if is_ending():
                self._store.close()
            else:
                await asyncio.to_thread(self._store.close)  # it waits for what is under way
        finally:
            for other in self._inbox.loops():
                call_on(other, self._go_on, other)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiter.watch(loop)
        for channel in self._inbox.plain_channels():
            self._waiter.listen(channel)
        self._reader.open()
        self._reader.look()

    def serialize(self, message: Mapping[str, Any]) -> bytes:
        """The ``data`` of an ``Event`` with this message.  Raises as ``send`` does."""
        return self.serializer.encrypt(self._encode(message))

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """The message of an ``Event``.  Raises ``UndecodableMessage``."""
        return self.serializer.deserialize(data)

    def _after_fork(self) -> None:
        self._frames.abandon()
        self._store.abandon()
        self._waiter.abandon()
        self._start_process()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
