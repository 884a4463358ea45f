"""The thread of a process's relays, with its own event loop.

The application's loops start and end with each ``async_to_sync``, but a connection belongs to one
loop.  So relays have a loop that stays.  It starts at the first use and ends with the process.  A
forked child starts its own.

Thread: any.  One lock: it starts once.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

from channels_lite import process

__all__ = ["relay_loop"]

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
# Loops of a parent process, kept forever: collecting one would close the parent's descriptors.
_abandoned: list[Any] = []


def relay_loop() -> asyncio.AbstractEventLoop:
    """The running loop.  Raises ``RuntimeError`` if no thread can be started."""
    global _loop  # noqa: PLW0603 - one a process
    if _loop is None:
        with _lock:
            if _loop is None:
                loop = asyncio.new_event_loop()
                try:
                    threading.Thread(
                        target=_run, args=(loop,), name="channels-lite-relay", daemon=True
                    ).start()
                except RuntimeError:
                    loop.close()
                    raise
                _loop = loop
    return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    with suppress(SystemExit):
        loop.run_forever()


def _forget() -> None:
    global _loop, _lock
    _abandoned.append(_loop)
    _loop, _lock = None, threading.Lock()


process.call_in_child(_forget)
