"""The connection for requests: pipelined, and answered in the order of asking.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from channels_lite.errors import StoreUnavailable
from channels_lite.loops import fail
from channels_lite.relay.redis.client import reason_of
from channels_lite.relay.redis.exchange import Exchange
from channels_lite.relay.redis.scripts import sha_of

__all__ = ["Pipeline"]


class Pipeline:
    """Owns the requests that are not written, and those that are not answered."""

    def __init__(self, lose: Callable[[str], None]) -> None:
        self._lose = lose
        self.exchange = Exchange(self._answered, lose)
        self._reason = ""
        self._commands: list[tuple[Any, ...]] = []
        #: The futures of pending requests, in the order of their answers.
        self._answers: deque[asyncio.Future[Any]] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether a request is not answered."""
        return bool(self._answers)

    def ask(self, *command: Any) -> asyncio.Future[Any]:
        """Asks; raises ``StoreUnavailable`` where it is awaited.

        The requests of an iteration are written in one piece, by `write` if it is called earlier.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._reason:
            fail(future, StoreUnavailable(self._reason))
            return future
        self._answers.append(future)
        if not self._commands:
            loop.call_soon(self.write)
        self._commands.append(command)
        return future

    def run(self, script: str, keys: Sequence[str], *arguments: Any) -> asyncio.Future[Any]:
        """Runs one of `scripts`."""
        return self.ask("EVALSHA", sha_of(script), len(keys), *keys, *arguments)

    def write(self) -> None:
        """Writes the requests that are not written."""
        commands, self._commands = self._commands, []
        if commands:
            self.exchange.write(*commands)

    def _answered(self, answer: Any) -> None:
        future = self._answers.popleft()
        if future.done():
            return
        if isinstance(answer, ResponseError):
            fail(future, StoreUnavailable(reason_of(answer)))
            if isinstance(answer, NoScriptError) or str(answer).startswith("NOSCRIPT"):
                self._lose("its scripts were deleted")  # the next link loads them again
        else:
            future.set_result(answer)

    def fail(self, reason: str) -> None:
        """The connection is lost, or that of the feed."""
        self._reason = reason
        self.exchange.end()  # answers may still come, and nobody waits for them any more
        self._commands.clear()
        while self._answers:
            fail(self._answers.popleft(), StoreUnavailable(reason))
