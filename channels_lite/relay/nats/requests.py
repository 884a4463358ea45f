"""Requests to NATS, and to JetStream, and their answers.

An answer comes to the inbox of this process, with the number of its request.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, NamedTuple

from channels_lite.errors import StoreUnavailable
from channels_lite.loops import fail
from channels_lite.relay.nats.client import OrderedClient, pub

__all__ = ["AGAIN", "NO_RESPONDERS", "NO_STREAM", "Reply", "Requests", "code_of", "said_by"]

#: Seconds before what JetStream could not do is tried again.
AGAIN = 0.2
#: The status that says that nobody subscribes; JetStream's error for a stream that is not there.
NO_RESPONDERS, NO_STREAM = "503", 10059


class Reply(NamedTuple):
    """``status`` is "" for one that has data."""

    data: bytes
    status: str


class Requests:
    """Owns those that are not answered."""

    def __init__(self, client: OrderedClient, token: str) -> None:
        self.client = client
        #: Where answers come; one more part says which.
        self.inbox = f"_INBOX.{token}"
        #: Why JetStream cannot be used; "" if it can.
        self.lack = ""
        #: Why the connection is lost; None if it is not.
        self._error: Exception | None = None
        self._answers: dict[str, asyncio.Future[Reply]] = {}
        self._numbers = itertools.count()

    @property
    def are_over(self) -> bool:
        """Whether the connection is lost, and none is answered any more."""
        return self._error is not None

    def number(self) -> str:
        """A new one."""
        return f"{next(self._numbers):x}"

    def begin(self, subject: str, payload: bytes = b"") -> tuple[asyncio.Future[Reply], bytes]:
        """What will be answered, and what asks for it once it is written."""
        number = self.number()
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        # A request that timed out is answered late, or never.
        answer.add_done_callback(lambda _: self._answers.pop(number, None))
        return answer, pub(subject, payload, f"{self.inbox}.{number}")

    async def ask(self, subject: str, payload: bytes = b"") -> Reply:
        """The answer to it."""
        answer, command = self.begin(subject, payload)
        if self._error is not None:
            fail(answer, self._error)
        self.client.write_only(command)
        return await answer

    async def api(self, name: str, /, **what: Any) -> dict[str, Any]:
        """What JetStream answers; an error is part of it."""
        payload = json.dumps(what).encode() if what else b""
        answer = await self.ask(f"$JS.API.{name}", payload)
        if answer.status:
            raise StoreUnavailable(self.lack or "JetStream does not answer: it has no leader yet")
        found: dict[str, Any] = json.loads(answer.data)
        return found

    def answered(self, number: str, data: bytes, status: str) -> bool:
        """Takes an answer.  False if it is to none of these requests."""
        answer = self._answers.pop(number, None)
        if answer is not None and not answer.done():
            # A direct answer has headers of its own, and no status.
            answer.set_result(Reply(data, status if status.strip().isdigit() else ""))
        return answer is not None

    def fail(self, error: Exception) -> None:
        """The connection is lost."""
        self._error = error
        for answer in list(self._answers.values()):
            fail(answer, error)
        self._answers.clear()


def code_of(said: dict[str, Any]) -> int:
    """JetStream's error, 0 for none."""
    return int((said.get("error") or {}).get("err_code", 0))


def said_by(said: dict[str, Any]) -> str:
    """What it says of an error."""
    return str((said.get("error") or {}).get("description", said))
