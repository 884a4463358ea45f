"""The connection for requests: pipelined, and answered in the order of asking.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from channels_lite.errors import StoreUnavailable
from channels_lite.relay.redis.client import reason_of
from channels_lite.relay.redis.scripts import sha_of

__all__ = ["Pipeline"]


class Pipeline:
    """Owns the requests that are not written, and those that are not answered."""

    def __init__(self, lose: Callable[[str], None]) -> None:
        self._lose = lose
        self._reason = ""
        self._commands: list[tuple[Any, ...]] = []
        self._has_commands = asyncio.Event()
        #: The futures of pending requests, in the order of their answers.
        self._answers: deque[asyncio.Future[Any]] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether a request is not answered."""
        return bool(self._answers)

    def ask(self, *command: Any) -> asyncio.Future[Any]:
        """Asks; raises ``StoreUnavailable`` where it is awaited."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._reason:
            future.set_exception(StoreUnavailable(self._reason))
            return future
        self._answers.append(future)
        self._commands.append(command)
        self._has_commands.set()
        return future

    def run(self, script: str, keys: Sequence[str], *arguments: Any) -> asyncio.Future[Any]:
        """Runs one of `scripts`."""
        return self.ask("EVALSHA", sha_of(script), len(keys), *keys, *arguments)

    async def write(self, connection: AbstractConnection) -> None:
        """Writes what is to be asked: all of an iteration in one piece."""
        try:
            while True:
                await self._has_commands.wait()
                self._has_commands.clear()
                commands, self._commands = self._commands, []
                await connection.send_packed_command(connection.pack_commands(commands))
        except (RedisError, OSError) as error:
            self._lose(reason_of(error))

    async def read(self, connection: AbstractConnection) -> None:
        """Reads the answers."""
        try:
            while True:
                answer: Any
                try:
                    answer = await connection.read_response(disconnect_on_error=False)
                except ResponseError as error:
                    answer = error
                future = self._answers.popleft()
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(StoreUnavailable(reason_of(answer)))
                else:
                    future.set_result(answer)
        except (RedisError, OSError) as error:
            self._lose(reason_of(error))

    def fail(self, reason: str) -> None:
        """The connection is lost."""
        self._reason = reason
        while self._answers:
            future = self._answers.popleft()
            if not future.done():
                future.set_exception(StoreUnavailable(reason))
                future.exception()  # somebody may have stopped to wait
