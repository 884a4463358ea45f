"""The thread of a process's relays, with a loop of its own.

Loops of the application come and go by the thousand under ``async_to_sync``, and a connection is of
one loop; so relays have one that stays.  It is started at first use, ends with the process, and a
forked child begins another one.

Thread: any.  One lock: it is started once.
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
# Of a parent process, kept for ever: to collect one would close what the parent still uses.
_abandoned: list[Any] = []


def relay_loop() -> asyncio.AbstractEventLoop:
    """The loop, which runs.  Raises ``RuntimeError`` where no thread can be started any more."""
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
