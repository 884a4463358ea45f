"""SEND and RECEIVE: the channel-layer specification, once, for all three layers.

Names, send, receive, groups and flush; how it is done is the `engine`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Protocol

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer
from django.core.exceptions import ImproperlyConfigured

from channels_lite import process, signals
from channels_lite.clock import boot_id
from channels_lite.config import Config
from channels_lite.delivery.capacity import PLAIN, Capacities
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.stats import Stats
from channels_lite.errors import ForeignChannel, InvalidMessage
from channels_lite.layers.engine import Engine
from channels_lite.loops import PER_ITERATION, call_on, is_ending, settle
from channels_lite.names import require_valid, split
from channels_lite.process import enter
from channels_lite.serializers import SerializerDoesNotExist, UndecodableMessage, registry
from channels_lite.store import Execute, Store, is_in_memory, sql, upkeep
from channels_lite.store.django import transaction_of_caller
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
        super().__init__(expiry=config.expiry, capacity=config.capacity or PLAIN)
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
        capacities = Capacities(
            config.capacity, self.channel_capacity, are_enforced=config.enforce_capacity
        )
        self._engine = Engine(
            config=config,
            capacities=capacities,
            serializer=self.serializer,
            store=self.store_class,
            default_interval=self.default_interval,
            make_waiter=self.make_waiter,
        )
        self._numbers = itertools.count()
        #: Messages received without waiting, so that no other coroutine had its turn.
        self._taken = 0
        # At exit `process` sees to it.
        weakref.finalize(self, process.drop, self._engine).atexit = False

    @staticmethod
    def make_waiter(engine: Engine) -> Waiter:
        """How ``engine`` learns of rows."""
        raise NotImplementedError

    @property
    def client_prefix(self) -> str:
        """Part of every process-local channel's name, and the name of this process's FIFO."""
        enter()
        return self._engine.token

    @property
    def stats(self) -> Stats:
        """What the layer has done in this process."""
        return self._engine.stats

    @property
    def polling_reason(self) -> str:
        """Why receivers poll; "" if they sleep until they are woken.  Known once one has waited."""
        return self._engine.waiter.reason

    @property
    def look_interval(self) -> float:
        """Seconds between two looks for rows that nobody was woken for."""
        return self._engine.interval()

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
        self._engine.cursors.own(name)
        return channel

    # Sending

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Gives ``message``, a dict or a TypedDict, to one receiver of ``channel``, now or later.

        Inside ``atomic()`` on the layer's database it belongs to the transaction.  Cancelled while
        it waits for a lock, it is not sent.

        Raises ``TypeError`` (``InvalidMessage`` for the message), ``ChannelFull``,
        ``MessageTooLarge``, ``StoreUnavailable``; nothing was sent then.
        """
        enter()
        self.require_valid_channel_name(channel)
        data = self._encode(message)
        engine = self._engine
        now = engine.clock.now() or await engine.generations.ask()
        envelope = sql.Envelope(*split(channel), channel, data, now, now + self.expiry)
        if transaction_of_caller(self.database) is not None:
            envelopes = engine.outgoing.encrypted([envelope])
            full = await engine.outgoing.write(partial(sql.insert_all, envelopes=envelopes))
        else:
            full = await engine.outgoing.send([envelope])
        if full:
            engine.stats.full += 1
            signals.send(signals.channel_full, self.database, channel=channel, group=None, count=1)
            # A sender that tries again at once would hold the loop.
            await engine.outgoing.yield_loop()
            raise ChannelFull(channel)
        engine.stats.sent += 1

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Gives ``message`` to every member of ``group``; those that are full miss it.

        Raises what ``send`` does, but for ``ChannelFull``; after ``StoreUnavailable`` some members,
        those that need no row, have it.
        """
        enter()
        self.require_valid_group_name(group)
        data = self._encode(message)
        engine = self._engine
        now = engine.clock.now() or await engine.generations.ask()
        envelopes: list[sql.Envelope] = []

        def address(members: list[sql.Member]) -> list[sql.Envelope]:
            for name, recipients, _ in members:
                envelopes.append(sql.Envelope(name, recipients, "", data, now, now + self.expiry))
            return envelopes

        def operation(execute: Execute, batch: sql.Batch) -> int:
            envelopes.clear()
            members = sql.group_members(execute, group, now)
            return sql.insert_all(execute, batch, engine.outgoing.encrypted(address(members)))

        if transaction_of_caller(self.database) is not None:
            missed = await engine.outgoing.write(operation)
        else:
            find = partial(engine.groups.members, group=group, now=now)
            missed = await engine.outgoing.send(address(await engine.outgoing.read(find)))
        engine.stats.group_sent += 1
        if missed:
            engine.missed.by_group(group, missed, envelopes[0].name)

    def _encode(self, message: Mapping[str, Any]) -> bytes:
        if not isinstance(message, dict):
            raise InvalidMessage(f"a message must be a dict, not a {type(message).__name__}")
        if "__asgi_channel__" in message:
            raise InvalidMessage("a message must not contain the key __asgi_channel__")
        data = self.serializer.encode(message)
        if len(data) > MAX_MESSAGE_SIZE:
            raise MessageTooLarge(f"{len(data)} bytes, and {MAX_MESSAGE_SIZE} are the most")
        return data

    # Receiving

    async def receive(self, channel: str) -> dict[str, Any]:
        """The next message of ``channel``; waits for one.

        May be cancelled at any time: no message is lost by it.  Several coroutines may wait for one
        channel, on any loops; each message goes to one.

        Raises ``TypeError`` for an invalid name, and ``ForeignChannel`` for a process-local channel
        of another process.
        """
        enter()
        engine = self._engine
        mailboxes = engine.mailboxes
        # On a name of this process that new_channel() did not make, rows may wait already.
        is_new_name = not mailboxes.is_served(channel) and self._own(channel)
        if engine.clock.began_at is None:
            await engine.generations.ask()
        loop = asyncio.get_running_loop()
        is_plain = "!" not in channel
        receiver = None
        if self._taken >= PER_ITERATION:
            self._taken = 0
            engine.arm(channel, loop, is_new_name=is_new_name)  # it may never have to wait
            await asyncio.sleep(0)
        while True:
            taken = mailboxes.take(channel, engine.clock.now(), receiver)
            if mailboxes.changed:
                engine.mark()
            if taken is not None:
                self._taken = self._taken + 1 if receiver is None else 0
                message = self._decode(channel, taken)
                if message is not None:
                    return message
            receiver = mailboxes.wait(channel, loop, keeps_place=receiver is not None)
            try:
                engine.arm(channel, loop, is_new_name=is_new_name)
                is_new_name = False
                await receiver
            except BaseException:
                if mailboxes.leave(channel, receiver) and is_plain:
                    engine.claims.requeue()
                raise

    def _decode(self, channel: str, taken: Message) -> dict[str, Any] | None:
        stats = self._engine.stats
        try:
            message = self.serializer.decode(taken.data)
        except UndecodableMessage as error:
            stats.undecodable += 1
            logger.error("a message to %s was dropped: %s", channel, error)
            return None
        # Also where nothing is traced: the sender's process may do it.
        carrier = message.pop(TRACE, None)
        if carrier is not None and self.traced is not None:
            message = self.traced(channel, message, carrier)
        stats.received += 1
        if stats.observe is not None:
            sent_at = taken.expires_at - self.expiry
            stats.observe(max(0.0, self._engine.clock.now() - sent_at))
        return message

    def _own(self, channel: str) -> bool:
        self.require_valid_channel_name(channel)
        if "!" not in channel:
            return False
        name = split(channel)[0]
        if not name.endswith(f"{self._engine.token}!"):
            raise ForeignChannel(
                f"{channel} is another process's: only what made a channel by new_channel() can "
                "receive on it"
            )
        return self._engine.cursors.own(name)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Makes ``channel`` a member of ``group`` for ``group_expiry`` seconds from now."""
        enter()
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        engine = self._engine
        now = engine.clock.now() or await engine.generations.ask()
        expires_at = now + self.group_expiry
        engine.has_joined = True

        def operation(execute: Execute, batch: sql.Batch) -> None:
            sql.join(execute, group, channel, batch.now, expires_at)

        await self._engine.outgoing.write(operation)

    async def group_discard(self, group: str, channel: str) -> None:
        """Ends a membership; nothing happens if there is none."""
        enter()
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)

        def operation(execute: Execute, batch: sql.Batch) -> None:
            sql.leave(execute, group, channel)

        await self._engine.outgoing.write(operation)

    async def group_channels(self, group: str) -> list[str]:
        """The members of ``group``, sorted: full names.  An extra beside the specification.

        Those of processes that were killed are among them until they are cleaned up.
        """
        enter()
        self.require_valid_group_name(group)
        outgoing = self._engine.outgoing
        now = self._engine.clock.now() or await self._engine.generations.ask()
        find = partial(sql.group_members, group=group, now=now)
        if transaction_of_caller(self.database) is not None:
            members = await outgoing.write(lambda execute, _: find(execute))
        else:
            members = await outgoing.read(find)
        return sorted(
            member.name + recipient
            for member in members
            for recipient in member.recipients.split(",")
        )

    # The rest

    async def flush(self) -> None:
        """Deletes all messages and groups, in the table and in the memory of every process."""
        enter()
        engine = self._engine
        if engine.clock.began_at is None:
            await engine.generations.ask()
        boot, began_at = boot_id(), engine.clock.began_at or 0.0

        def operation(execute: Execute, batch: sql.Batch) -> sql.FlushMark:
            with batch.transaction(execute):
                upkeep.flush(execute, batch.now, boot, began_at)
                return sql.table(execute).flushed

        def tell(flushed: sql.FlushMark) -> None:
            for other in process.members(Engine):  # those of this process need not look to know
                other.flushed(engine.source.path, flushed)
            hooks.wake_all(engine.source.sidecar_bytes)

        await engine.outgoing.write(operation, tell)

    async def clean_expired(
        self, on_step: Callable[[int], None] = lambda seen: None, kept: int = upkeep.KEPT
    ) -> int:
        """Deletes every expired message and membership, in steps.  Returns how many.

        ``on_step`` is told after each step how many rows, live or expired, were looked at so far.
        Then free pages, but for ``kept`` (1000), go back to the file system, where migrations
        could see to it: in a database of the channels' own.
        """
        enter()
        engine = self._engine
        if engine.clock.began_at is None:
            await engine.generations.ask()
        deleted = 0
        is_callers = transaction_of_caller(self.database) is not None
        sweep = upkeep.Sweep((), None if is_callers or is_in_memory(self.database) else kept)
        while not sweep.is_done:
            if is_callers:
                deleted += await engine.outgoing.write(
                    lambda execute, batch: sweep.step(execute, batch.now)
                )
            else:
                step = partial(sweep.step, now=engine.clock.now())
                deleted += await engine.outgoing.read(step)
            on_step(sweep.seen)
        return deleted

    async def close(self) -> None:
        """Gives back what the layer holds.  It works again when it is used again.

        Coroutines that wait in ``receive()``, on whatever loop, use it again at once.
        """
        enter()
        loop = asyncio.get_running_loop()
        engine = self._engine
        has_given_back = loop.create_future()
        try:
            engine.close(partial(call_on, loop, settle, has_given_back))
            if transaction_of_caller(self.database) is None:  # whose lock it would wait for
                await has_given_back
            if is_ending():
                engine.store.close()
            else:
                await asyncio.to_thread(engine.store.close)  # it waits for what is under way
        finally:
            engine.go_on()

    def serialize(self, message: Mapping[str, Any]) -> bytes:
        """The ``data`` of an ``Event`` with this message.  Raises as ``send`` does."""
        return self.serializer.encrypt(self._encode(message))

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """The message of an ``Event``.  Raises ``UndecodableMessage``."""
        return self.serializer.deserialize(data)
