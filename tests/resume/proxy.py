"""A network between clients and servers, in the test's hands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


class Proxy:
    """A port that leads to the one that ``target`` names at the time; ended by `close`."""

    def __init__(self, target: Callable[[], int | str]) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._passes = asyncio.Event()
        self._passes.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _connected(self, reader, writer) -> None:
        with suppress(OSError):
            there = await asyncio.open_connection("127.0.0.1", int(self._target()))
            self._open |= {writer, there[1]}
            ways = self._pump(reader, there[1]), self._pump(there[0], writer)
            await asyncio.wait(map(asyncio.ensure_future, ways), return_when="FIRST_COMPLETED")
            there[1].transport.abort()
        writer.transport.abort()

    async def _pump(self, reader, writer) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()

    def cut(self) -> None:
        """Resets every connection."""

        async def cut() -> None:
            while self._open:
                self._open.pop().transport.abort()

        self._do(cut())

    def hold(self) -> None:
        """From now on nothing passes, and neither side is told."""
        self._loop.call_soon_threadsafe(self._passes.clear)

    def go_on(self) -> None:
        self._loop.call_soon_threadsafe(self._passes.set)

    def close(self) -> None:
        self.cut()
        self._server.close()

        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
