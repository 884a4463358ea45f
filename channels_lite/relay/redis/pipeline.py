"""The connection for requests: pipelined, and answered in the order of asking.

Thread: any loop that may use the link; answers come on any thread.  One lock guards all state, and
what is written, so that answers come in its order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from channels_lite import loops
from channels_lite.errors import StoreUnavailable
from channels_lite.relay.redis.client import reason_of
from channels_lite.relay.redis.exchange import Exchange
from channels_lite.relay.redis.scripts import sha_of

__all__ = ["Answer", "Command", "Pipeline", "script"]

Command = tuple[Any, ...]
#: Called with an answer, or an error, on any thread.
Answer = Callable[[Any, "StoreUnavailable | None"], None]


def script(source: str, keys: Sequence[str], *arguments: Any) -> Command:
    """Runs one of `scripts`."""
    return ("EVALSHA", sha_of(source), len(keys), *keys, *arguments)


class Pipeline:
    """Owns the requests that are not written, and those that are not answered."""

    def __init__(self, lose: Callable[[str], None]) -> None:
        self._lose = lose
        self.exchange = Exchange(self._answered, lose)
        self._lock = threading.Lock()
        self._reason = ""
        #: By loop: what is written in its next iteration.
        self._requests: dict[asyncio.AbstractEventLoop, list[tuple[Command, Answer]]] = {}
        #: Pending requests, in the order of their answers.
        self._answers: deque[Answer] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether a request is not answered."""
        return bool(self._answers)

    def ask(self, *command: Any) -> asyncio.Future[Any]:
        """Asks; raises ``StoreUnavailable`` where it is awaited.

        The requests of an iteration of a loop are written in one piece.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._lock:
            requests = self._requests.get(loop)
            if requests is None:
                requests = self._requests[loop] = []
                loop.call_soon(self._write, loop)
            requests.append((command, partial(loops.answer, future)))
        return future

    def run(self, source: str, keys: Sequence[str], *arguments: Any) -> asyncio.Future[Any]:
        """Runs one of `scripts`."""
        return self.ask(*script(source, keys, *arguments))

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            requests = self._requests.pop(loop)
        self.write(requests)

    def write(self, requests: Iterable[tuple[Command, Answer]]) -> None:
        """Writes them in one piece.  Any thread."""
        commands, answers = zip(*requests, strict=True)
        with self._lock:
            reason = self._reason
            if not reason:
                self._answers += answers
                self.exchange.write(*commands)
        if reason:
            for answer in answers:
                answer(None, StoreUnavailable(reason))

    def _answered(self, answer: Any) -> None:
        with self._lock:
            if not self._answers:
                return  # it is lost
            take = self._answers.popleft()
        if isinstance(answer, ResponseError):
            take(None, StoreUnavailable(reason_of(answer)))
            if isinstance(answer, NoScriptError) or str(answer).startswith("NOSCRIPT"):
                self._lose("its scripts were deleted")  # the next link loads them again
        else:
            take(answer, None)

    def fail(self, reason: str) -> None:
        """The connection is lost, or that of the feed."""
        with self._lock:
            self._reason = reason
            answers, self._answers = self._answers, deque()
        self.exchange.end()  # answers may still come, and nobody waits for them any more
        for take in answers:
            take(None, StoreUnavailable(reason))
