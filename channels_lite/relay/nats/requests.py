"""Requests to NATS, and to JetStream, and their answers.

An answer comes to the inbox of this process, with the number of its request.

Thread: any loop that may use the link; answers come on any thread.  The dictionary of requests is
only changed key by key, so it needs no lock.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from channels_lite import loops
from channels_lite.errors import StoreUnavailable
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


#: Called with an answer, or an error, on any thread.
Answered = Callable[["Reply | None", "Exception | None"], object]


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
        self._answers: dict[str, Answered] = {}
        self._numbers = itertools.count()

    @property
    def are_over(self) -> bool:
        """Whether the connection is lost, and none is answered any more."""
        return self._error is not None

    def number(self) -> str:
        """A new one."""
        return f"{next(self._numbers):x}"

    def call(self, then: Answered, subject: str, payload: bytes = b"") -> tuple[str, bytes]:
        """The number of a request, and what asks once it is written.  ``then`` is called once."""
        number = self.number()
        self._answers[number] = then
        if self._error is not None and self._answers.pop(number, None) is not None:
            then(None, self._error)
        return number, pub(subject, payload, f"{self.inbox}.{number}")

    def forget(self, number: str) -> None:
        """Nobody waits for the answer, which is late, or never comes."""
        self._answers.pop(number, None)

    def begin(self, subject: str, payload: bytes = b"") -> tuple[asyncio.Future[Reply], bytes]:
        """What will be answered, and what asks for it once it is written."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        number, command = self.call(partial(loops.answer, answer), subject, payload)
        answer.add_done_callback(lambda _: self.forget(number))
        return answer, command

    async def ask(self, subject: str, payload: bytes = b"") -> Reply:
        """The answer to it."""
        answer, command = self.begin(subject, payload)
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
        if answer is not None:
            # A direct answer has headers of its own, and no status.
            answer(Reply(data, status if status.strip().isdigit() else ""), None)
        return answer is not None

    def fail(self, error: Exception) -> None:
        """The connection is lost."""
        self._error = error
        for number in list(self._answers):
            answer = self._answers.pop(number, None)
            if answer is not None:
                answer(None, error)


def code_of(said: dict[str, Any]) -> int:
    """JetStream's error, 0 for none."""
    return int((said.get("error") or {}).get("err_code", 0))


def said_by(said: dict[str, Any]) -> str:
    """What it says of an error."""
    return str((said.get("error") or {}).get("description", said))
