"""A client that does what resume.js does, in Python, so that there can be many."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

# Seconds before the next attempt, at most: resume.js begins with half a second.
PAUSE = 0.1


class Client:
    """One page: what it has heard of one group, over all its connections."""

    def __init__(self, group: str, port: Callable[[], str], kind: str = "async") -> None:
        self._group = group
        self._port = port
        self._path = f"ws/{kind}/{group}/"
        self._position: str | None = None
        self._seen: set[str] = set()
        self._has_changed = asyncio.Event()
        self._connection: ClientConnection | None = None
        #: Who said it, and which of its messages it is, in the order in which they came.
        self.heard: list[tuple[str, int]] = []
        #: ``twice``: messages that it has dropped, for they had come before.
        self.connections = self.cuts = self.twice = self.incomplete = 0

    async def run(self) -> None:
        """Connects, and listens, again and again."""
        while True:
            after = {} if self._position is None else {self._group: self._position}
            query = urlencode({"after": json.dumps(after)})
            url = f"ws://127.0.0.1:{self._port()}/{self._path}?{query}"
            with suppress(OSError, EOFError, InvalidHandshake, ConnectionClosed):
                async with connect(url, ping_interval=None, proxy=None) as connection:
                    self._connection = connection
                    self.connections += 1
                    async for text in connection:
                        self._take(json.loads(text))
            self._connection = None
            await asyncio.sleep(PAUSE * random.random())

    def _take(self, message: dict[str, Any]) -> None:
        position = message["position"]
        if "is_complete" in message:
            self.incomplete += not message["is_complete"]
        elif position in self._seen:
            self.twice += 1
            return
        else:
            self._seen.add(position)
            self.heard.append((message["by"], message["number"]))
        self._position = position
        self._has_changed.set()

    async def cut(self) -> None:
        """Resets its connection, whatever is on its way; waits until it has one."""
        while self._connection is None:  # noqa: ASYNC110 - it is short
            await asyncio.sleep(0.001)
        self._connection.transport.abort()
        self._connection = None
        self.cuts += 1

    async def until_joined(self, seconds: float) -> None:
        """Returns when it knows where it is."""
        await self._until(lambda: self._position is not None, seconds)

    async def until_heard(self, count: int, seconds: float) -> None:
        """Returns when it has so many messages."""
        await self._until(lambda: len(self.heard) >= count, seconds)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        async def wait() -> None:
            while not condition():
                self._has_changed.clear()
                await self._has_changed.wait()

        await asyncio.wait_for(wait(), seconds)
