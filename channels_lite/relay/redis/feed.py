"""The connection on which messages come, in the order in which Redis received them.

What is subscribed to is confirmed on it, among the messages.

Thread: the relay's loop; messages come on any thread.  One lock guards what is not confirmed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from channels_lite.errors import StoreUnavailable
from channels_lite.loops import reject, resolve
from channels_lite.relay.redis.client import reason_of
from channels_lite.relay.redis.exchange import Exchange

__all__ = ["Feed"]


class Feed:
    """Owns the subscriptions and pings that are not confirmed."""

    def __init__(self, came: Callable[[str, bytes], None], lose: Callable[[str], None]) -> None:
        self.exchange = Exchange(self._take, lose)
        self._came = came
        self._lose = lose
        self._reason = ""
        self._lock = threading.Lock()
        self._waiting: dict[tuple[bytes, str], list[asyncio.Future[None]]] = {}

    def _take(self, said: Any) -> None:
        if isinstance(said, ResponseError):
            self._lose(reason_of(said))
            return
        kind, *what = said
        if kind == b"message":
            self._came(what[0].decode(), what[1])
        elif kind in (b"subscribe", b"unsubscribe", b"pong"):
            self._confirmed(kind, "" if kind == b"pong" else what[0].decode())

    def _confirmed(self, kind: bytes, name: str) -> None:
        with self._lock:
            waiting = self._waiting.get((kind, name))
            if not waiting:
                return
            future = waiting.pop(0)
            if not waiting:
                del self._waiting[kind, name]
        resolve(future, None)

    async def subscribe(self, *subjects: str) -> None:
        """Returns when all are confirmed.  Raises ``StoreUnavailable``."""
        await self._say("SUBSCRIBE", subjects, subjects, b"subscribe")

    async def unsubscribe(self, *subjects: str) -> None:
        """The same."""
        await self._say("UNSUBSCRIBE", subjects, subjects, b"unsubscribe")

    async def ping(self) -> None:
        """The same, without a subject."""
        await self._say("PING", (), ("",), b"pong")

    async def _say(
        self, verb: str, subjects: Sequence[str], names: Sequence[str], kind: bytes
    ) -> None:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None]] = [loop.create_future() for _ in names]
        with self._lock:
            if self._reason:
                raise StoreUnavailable(self._reason)
            for name, future in zip(names, futures, strict=True):
                self._waiting.setdefault((kind, name), []).append(future)
        self.exchange.write((verb, *subjects))
        for future in futures:
            await future

    def fail(self, reason: str) -> None:
        """The connection is lost."""
        with self._lock:
            self._reason = reason
            waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                reject(future, StoreUnavailable(reason))
