"""What other processes send to this one, and the questions between processes.

Thread: what comes, any; otherwise the relay's loop.  The only state is the fault that other
processes have made known.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Link, outcome
from channels_lite.relay.flushes import Flushes
from channels_lite.relay.host import Host
from channels_lite.relay.wire import (
    Answer,
    Appended,
    Copied,
    Flushed,
    Heard,
    Hello,
    Membership,
    Message,
    Messages,
    Unreadable,
    decode,
    encode,
)

__all__ = ["Envelopes"]

logger = logging.getLogger(__name__)


class Envelopes:
    """Opens them, and hands their content to the layer."""

    def __init__(self, host: Host, flushes: Flushes) -> None:
        self._host = host
        self._flushes = flushes
        #: A fault of this node, because of which no other node receives its messages.
        self.fault = ""

    def came(self, subject: str, payload: bytes, reply: str) -> None:
        """See `Listener`."""
        host = self._host
        try:
            message = decode(payload)
        except Unreadable as error:
            logger.error("an envelope from the relay to %s was dropped: %s", subject, error)
            return
        if isinstance(message, Messages):
            group = host.subjects.group_of(subject)
            if not group or message.node != host.node:  # otherwise this node has it already
                host.receiver.take(group, message.entries)
        elif isinstance(message, Appended):
            host.receiver.appended()
        else:
            host.on_loop(lambda: host.keep(self._came(message, reply)))

    def job_came(self, channel: str, data: bytes, ttl: float) -> None:
        """See `Listener`."""
        self._host.receiver.take_job(channel, data, ttl)

    async def _came(self, message: Message, reply: str) -> None:
        host = self._host
        if isinstance(message, Membership):
            await self._answer(reply, Answer(await host.receiver.change(message)))
        elif isinstance(message, Flushed):
            await self._flushes.came(message)
        elif isinstance(message, Heard):
            self._flushes.heard(message)
        elif isinstance(message, Hello):
            await self._met(message.token)
        elif isinstance(message, Copied) and reply:
            is_seen = host.receiver.is_neighbour(message.token)
            await self._answer(reply, Answer("they use one database" if is_seen else ""))
        elif isinstance(message, Copied) and not host.receiver.is_neighbour(message.token):
            self._is_copied()

    async def _answer(self, reply: str, answer: Answer) -> None:
        with suppress(StoreUnavailable):
            await self._host.connection.do(lambda link: link.answer(reply, encode(answer)))

    async def ask(self, asked: Membership, token: str) -> None:
        """Asks the process with this token to change one of its memberships.

        Returns when it has, or if there is no such process.  Raises ``StoreUnavailable``.
        """
        answer = await self._ask(token, asked)
        if answer is not None and answer.error:
            raise StoreUnavailable(f"the process of {asked.channel} says: {answer.error}")

    async def _ask(self, token: str, asked: Membership | Copied) -> Answer | None:
        """None: there is no such process.  Raises ``StoreUnavailable``."""
        subject = self._host.subjects.process(token)
        answer = await self._host.connection.ask(subject, encode(asked))
        if answer is None:
            return None
        try:
            answered = decode(answer)
        except Unreadable as error:
            raise StoreUnavailable(f"the process {token} answered: {error}") from None
        if not isinstance(answered, Answer):
            raise StoreUnavailable(f"the process {token} answered: {type(answered).__name__}")
        return answered

    # Nodes of the same name

    def greet(self, link: Link) -> None:
        """Tells the processes of this node that another one has connected."""
        hello = encode(Hello(self._host.node, self._host.token))
        link.publish([(self._host.subjects.node(self._host.node), hello)], ())

    async def _met(self, token: str) -> None:
        """Checks that a process which claims to be of this node uses its database.

        This process cannot know it, because the other may be about to end.  But the other can: it
        sees the name that this process has from before the question until after the answer.
        """
        host, is_neighbour = self._host, self._host.receiver.is_neighbour
        if token == host.token or is_neighbour(token) or not is_neighbour(host.token):
            return
        copied = Copied(host.node, host.token)
        with suppress(StoreUnavailable):
            answer = await self._ask(token, copied)
            if answer is not None and not answer.error and is_neighbour(host.token):
                self._is_copied()
                told = (host.subjects.process(token), encode(copied))
                await host.connection.do(lambda link: outcome(link.publish([told], ())))

    def _is_copied(self) -> None:
        if not self.fault:
            self.fault = (
                f"another node has the same name, {self._host.node}, because one machine is a "
                "copy of the other, so neither receives the other's messages: delete the file "
                "that ends in -node beside the database on one of them, and restart its processes"
            )
            logger.error("%s", self.fault)
