"""How long the engine is waited for, in the time of a loop that turns.

Facts: a timer of a loop says nothing about the engine if the process got no processor time, or if
the loop was busy.  The answer may be in the socket, unread.
So: the time is counted in steps.  A step whose timer is late is repeated, at most as often as there
are steps, so that the wait ends in any case.

Thread: any loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from channels_lite.loops import call_on

__all__ = ["DEADLINE", "Countdown", "Deadline"]

#: Seconds without an answer after which an engine counts as unavailable.
DEADLINE = 1.0
#: Into how many steps it is divided.
STEPS = 5


class Countdown:
    """Calls ``is_over`` after `DEADLINE`, unless it is cancelled before."""

    def __init__(self, is_over: Callable[[], object]) -> None:
        self._is_over = is_over
        self._left = self._repeats = STEPS
        self._loop = asyncio.get_running_loop()
        self._begin_step()

    def cancel(self) -> None:
        """It is answered.  Any thread."""
        call_on(self._loop, self._cancel)

    def _cancel(self) -> None:
        self._timer.cancel()

    def _begin_step(self) -> None:
        self._timer = self._loop.call_later(DEADLINE / STEPS, self._end_step)

    def _end_step(self) -> None:
        is_late = self._loop.time() - self._timer.when() > DEADLINE / STEPS
        if is_late and self._repeats:
            self._repeats -= 1
        else:
            self._left -= 1
        if self._left:
            self._begin_step()
        else:
            self._is_over()


class Deadline:
    """``async with Deadline():`` raises ``TimeoutError`` in its body after `DEADLINE`."""

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._requests = getattr(self._task, "cancelling", int)()  # since Python 3.11
        self._has_ended = False
        self._countdown = Countdown(self._end)

    def _end(self) -> None:
        if self._task is not None:
            self._has_ended = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._countdown.cancel()
        if self._has_ended and kind is asyncio.CancelledError:
            if getattr(self._task, "uncancel", int)() > self._requests:
                return  # its caller has cancelled it, too
            raise TimeoutError
