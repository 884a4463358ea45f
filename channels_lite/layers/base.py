"""SEND and RECEIVE: the channel-layer specification, once, for all three layers.

Names, send, receive and flush; `groups` has more of groups.  The `engine` does the work.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar

from channels.exceptions import ChannelFull, MessageTooLarge
from django.core.exceptions import ImproperlyConfigured

from channels_lite import process
from channels_lite.config import Config
from channels_lite.delivery.capacity import PLAIN, Capacities
from channels_lite.delivery.mailbox import Message
from channels_lite.delivery.remembered import HistoryMessage
from channels_lite.delivery.stats import Stats
from channels_lite.errors import InvalidMessage
from channels_lite.history import limits_of
from channels_lite.layers.engine import Engine
from channels_lite.layers.groups import GroupMethods, require_no_position, tell_position
from channels_lite.layers.parts import Parts
from channels_lite.layers.relayed import relayed
from channels_lite.layers.traced import TRACE, Traced
from channels_lite.names import fault_of, is_valid
from channels_lite.process import enter
from channels_lite.serializers import SerializerDoesNotExist, UndecodableMessage, registry
from channels_lite.store import Store, is_in_memory, upkeep
from channels_lite.wake import Waiter
from channels_lite.wake.fifo import RelayReport

__all__ = ["MAX_MESSAGE_SIZE", "BaseSQLiteChannelLayer"]

logger = logging.getLogger(__name__)

#: The maximum size of an encoded message.  The specification asks for 1 MB.  A row could have 1 GB,
#: but every reader of the table, and the log, would have to carry it.
MAX_MESSAGE_SIZE = 64 * 1024 * 1024


class BaseSQLiteChannelLayer(GroupMethods):
    """Everything about the three layers except their store and waiter.

    ``CONFIG`` is documented, with defaults and units, at ``channels_lite.config.Config``.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    #: Set by `channels_lite.otel.install`, for messages that carry a trace.
    traced: ClassVar[Traced | None] = None

    #: Where rows are.
    store_class: ClassVar[type[Store]]
    #: Seconds between two looks, if CONFIG does not set it.
    default_interval: ClassVar[float] = 0.1

    # ASCII only, without a newline at the end, which the expressions in channels.layers allow.
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
        has_relay = config.relay is not None and not is_in_memory(config.database)
        histories = dict(config.group_history or {})
        self._make_engine: Callable[..., Engine] = partial(
            relayed(type(self).__name__, config) if has_relay else Engine,
            config=config,
            capacities=Capacities(
                config.capacity, self.channel_capacity, are_enforced=config.enforce_capacity
            ),
            limits=limits_of(self.compile_capacities(histories)) if histories else None,
            serializer=self.serializer,
            store=self.store_class,
            default_interval=self.default_interval,
            make_waiter=self.make_waiter,
        )
        self._numbers = itertools.count()
        self._first_use = threading.Lock()
        if not has_relay:
            _ = self._engine

    @cached_property
    def _engine(self) -> Engine:
        """Made with the layer, or, with a relay, at the first use; see `layers.relayed`."""
        with self._first_use:
            if "_engine" not in self.__dict__:
                self.__dict__["_engine"] = engine = self._make_engine()
                # At exit `process` does this.
                weakref.finalize(self, process.drop, engine).atexit = False
            made: Engine = self.__dict__["_engine"]
            return made

    @staticmethod
    def make_waiter(parts: Parts) -> Waiter:
        """The waiter, by which the layer learns of rows."""
        raise NotImplementedError

    @property
    def client_prefix(self) -> str:
        """Part of every process-local channel's name, and the name of this process's FIFO."""
        enter()
        return self._engine.token

    @property
    def stats(self) -> Stats:
        """Counts of what the layer has done in this process."""
        return self._engine.stats

    @property
    def relay_report(self) -> RelayReport | None:
        """The state of the connection to the relay's engine; None if there is no relay."""
        return self._engine.relay_report()

    @property
    def polling_reason(self) -> str:
        """Why receivers poll; "" if they sleep until woken.  Known after one has waited."""
        return self._engine.waiter.reason

    @property
    def look_interval(self) -> float:
        """Seconds between two looks for rows without a wake-up."""
        return self._engine.interval()

    # Names

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Returns True, or raises ``TypeError`` with the reason."""
        self._require_valid("Channel", name, self.channel_name_regex)
        if receive and "!" in str(name) and not str(name).endswith("!"):
            raise TypeError("Specific channel names in receive() must end at the !")
        return True

    def require_valid_group_name(self, name: object) -> bool:
        """Returns True, or raises ``TypeError`` with the reason."""
        self._require_valid("Group", name, self.group_name_regex)
        return True

    def _require_valid(self, kind: str, name: object, valid: re.Pattern[str]) -> None:
        limit = self.MAX_NAME_LENGTH
        if not (isinstance(name, str) and is_valid(name, valid.pattern, limit)):
            # Channels 4.1 goes on with ", not" and the name, which is in our own sentence.
            said = self.invalid_name_error.format(kind, "anything else:")
            raise TypeError(f"{said} {fault_of(name, limit)}")

    async def new_channel(self, prefix: str = "specific") -> str:
        """A channel that only this process receives on: ``prefix.<process>!<number>``."""
        if self.config.relay is not None:
            await self._engine.get_ready()
        name = f"{prefix}.{self.client_prefix}!"
        channel = f"{name}{next(self._numbers):x}"
        self.require_valid_channel_name(channel)
        self._engine.cursors.own(name)
        return channel

    # Sending

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Sends ``message``, a dict or a TypedDict, to one receiver of ``channel``.

        Inside ``atomic()`` on the layer's database, the message belongs to the transaction.  If the
        call is cancelled while it waits for a lock, the message is not sent.

        Raises ``TypeError`` (``InvalidMessage`` for the message), ``ChannelFull``,
        ``MessageTooLarge`` or ``StoreUnavailable``.  Then nothing was sent.
        """
        enter()
        self.require_valid_channel_name(channel)
        data = self._encode(message)
        if not await self._engine.sending.send(channel, data, self.expiry):
            raise ChannelFull(channel)

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Sends ``message`` to every member of ``group``.  Full members miss it.

        If the group has a history (``CONFIG["group_history"]``), it is added to that: members that
        are full get it later.  Then it must not contain ``history_id``, ``history_group`` or
        ``history_is_complete``, which members find in it.

        Raises what ``send`` raises, except ``ChannelFull``.  After ``StoreUnavailable``, members
        that need no row have received the message.  With a relay, a history is in its engine: if
        that does not answer, the message may be in the history all the same.
        """
        enter()
        self.require_valid_group_name(group)
        data = self._encode(message)
        log = None if self._engine.log is None else self._log_of(group)
        if log is None:
            await self._engine.sending.group_send(group, data, self.expiry)
            return
        require_no_position(message)
        await log.append(group, data, self.expiry)

    def _encode(self, message: Mapping[str, Any]) -> bytes:
        if not isinstance(message, dict):
            raise InvalidMessage(f"a message must be a dict, not a {type(message).__name__}")
        if "__asgi_channel__" in message:
            raise InvalidMessage("a message must not contain the key __asgi_channel__")
        data = self.serializer.encode(message)
        if len(data) > MAX_MESSAGE_SIZE:
            raise MessageTooLarge(f"{len(data)} bytes; the maximum is {MAX_MESSAGE_SIZE}")
        return data

    # Receiving

    async def receive(self, channel: str) -> dict[str, Any]:
        """Returns the next message of ``channel``, and waits for it.

        May be cancelled at any time without losing a message.  Several coroutines, on any loops,
        may wait for the same channel; each message goes to one of them.

        Raises ``TypeError`` for an invalid name, and ``ForeignChannel`` for a process-local channel
        of another process.
        """
        enter()
        receiving = self._engine.receiving
        decoded = None
        while decoded is None:
            receiver = receiving.stand_by(channel)
            if receiver is None:
                message = await receiving.receive(channel, self.require_valid_channel_name)
            else:
                try:
                    await receiver
                except BaseException:
                    receiving.leave(channel, receiver)
                    raise
                message = receiving.take(channel, receiver) or await receiving.wait(
                    channel, keeps_place=True
                )
            decoded = self._decode(channel, message)
        return decoded

    def _decode(self, channel: str, taken: Message) -> dict[str, Any] | None:
        engine = self._engine
        log, stats = engine.log, engine.stats
        remembered = taken if log is not None and isinstance(taken, HistoryMessage) else None
        try:
            message = taken.decode(self.serializer.decode)
        except UndecodableMessage as error:
            if log is not None and remembered is not None:
                log.drop(remembered.group, remembered.position, error)
            else:
                stats.undecodable += 1
                logger.error("a message to %s was dropped: %s", channel, error)
            return None
        # Even if this process does not trace: the sender's process may.
        if remembered is not None:
            tell_position(message, remembered)
        carrier = message.pop(TRACE, None)
        if carrier is not None and self.traced is not None:
            message = self.traced(channel, message, carrier)
        stats.received += 1
        if stats.observe is not None and (remembered is None or remembered.is_live):
            sent_at = taken.expires_at - self.expiry
            stats.observe(max(0.0, engine.clock.now() - sent_at))
        return message

    # The rest

    async def flush(self) -> None:
        """Deletes all messages and groups, in the table and in the memory of every process."""
        enter()
        await self._engine.flush()

    async def clean_expired(
        self, on_step: Callable[[int], None] = lambda seen: None, kept: int = upkeep.KEPT
    ) -> int:
        """Deletes every expired message and membership, in steps.  Returns how many.

        ``on_step`` is called after each step with the number of rows, live or expired, checked so
        far.  Then free pages except ``kept`` (1000) return to the file system, if the migrations
        could enable this: in a separate database for the channels.
        """
        enter()
        return await self._engine.clean_expired(on_step, kept)

    async def close(self) -> None:
        """Releases the layer's resources.  The next use of the layer opens them again.

        Coroutines that wait in ``receive()``, on any loop, use it again at once.
        """
        enter()
        await self._engine.close_in_order()

    def serialize(self, message: Mapping[str, Any]) -> bytes:
        """The ``data`` of an ``Event`` with this message.  Raises what ``send`` raises."""
        return self.serializer.encrypt(self._encode(message))

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """The message of an ``Event``.  Raises ``UndecodableMessage``."""
        return self.serializer.deserialize(data)
