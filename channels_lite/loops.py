"""Event loops come and go, are closed without a word, and have others' work to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["PER_ITERATION", "call_on", "is_ending", "running_loop", "settle", "soon"]

#: Messages that are dealt with in one iteration of a loop, for all other coroutines wait for them.
PER_ITERATION = 16


def is_ending() -> bool:
    """Whether Python is at its exit handlers, when no thread can be started any more."""
    return not threading.main_thread().is_alive()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop of this thread, None outside of one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def call_on(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> bool:
    """Calls ``callback`` on the loop's thread, at once if it is this one.  False: it is closed."""
    if running_loop() is loop:
        callback(*args)
        return True
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


def soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> bool:
    """Calls ``callback`` in the next iteration of the loop.  Any thread.  False: it is closed."""
    try:
        if running_loop() is loop:
            loop.call_soon(callback)
        else:
            loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return False
    return True


def settle(future: asyncio.Future[None]) -> None:
    """Lets the coroutine that waits for ``future`` go on, unless it was cancelled."""
    if not future.done():
        future.set_result(None)
