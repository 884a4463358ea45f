"""Calls into event loops, which may be closed at any time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = [
    "PER_ITERATION",
    "answer",
    "call_on",
    "fail",
    "is_ending",
    "reject",
    "resolve",
    "running_loop",
    "settle",
    "soon",
]

T = TypeVar("T")

#: Messages that one iteration of a loop handles, because all other coroutines wait meanwhile.
PER_ITERATION = 16


def is_ending() -> bool:
    """Whether Python runs its exit handlers, when no thread can be started any more."""
    return not threading.main_thread().is_alive()


#: The running loop of this thread, or None.
running_loop: Callable[[], asyncio.AbstractEventLoop | None] = asyncio._get_running_loop  # noqa: SLF001 - exported for loops


def call_on(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> bool:
    """Calls ``callback`` on the loop's thread, at once if this is it.  False: it is closed."""
    if running_loop() is loop:
        callback(*args)
        return True
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


def soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> bool:
    """Calls ``callback`` in the loop's next iteration, from any thread.  False: it is closed."""
    try:
        if running_loop() is loop:
            loop.call_soon(callback)
        else:
            loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return False
    return True


def settle(future: asyncio.Future[Any], result: Any = None) -> None:
    """Lets the coroutine that waits for ``future`` continue, unless it was cancelled."""
    if not future.done():
        future.set_result(result)


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Raises ``error`` where ``future`` is awaited, if it is."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # so that nothing is logged if nobody awaits it any more


def resolve(future: asyncio.Future[T], result: T) -> None:
    """Lets the coroutine that waits for ``future`` continue with ``result``.  Any thread."""
    call_on(future.get_loop(), settle, future, result)


def reject(future: asyncio.Future[Any], error: BaseException) -> None:
    """`fail`, from any thread."""
    call_on(future.get_loop(), fail, future, error)


def answer(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """`resolve`, or `reject` if there is an error.  Any thread."""
    if error is not None:
        reject(future, error)
    else:
        resolve(future, result)
