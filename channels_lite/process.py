"""A process forks, and ends: what its layers do then.

Python's hooks for a fork are not called by every program that forks: uWSGI calls none by default,
or the child's alone.  So each entry point compares the process id, and a child begins anew then.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from channels_lite.loops import soon
from channels_lite.wake.hooks import hooks

if TYPE_CHECKING:
    from channels_lite.layers.engine import Engine

__all__ = ["drop", "engines", "enter"]

logger = logging.getLogger(__name__)

#: Of all layers that are in use.
engines: weakref.WeakSet[Engine] = weakref.WeakSet()

# One fork at a time: between its two hooks the stores stand still.
_forking = threading.Lock()
# One thread of a child that nobody told of begins anew.
_entering = threading.Lock()
_pid = os.getpid()
_getpid = os.getpid  # twice for each message
# Of layers that were collected without having been closed.
_dropped: deque[Engine] = deque()


def enter() -> None:
    """Call first at each entry point: notices a fork that nobody told of, and dropped layers."""
    if _getpid() != _pid or _dropped:
        _enter_anew()


def _enter_anew() -> None:
    with _entering:
        if _getpid() != _pid:
            _after_fork_in_child()
    _close_dropped()


def drop(engine: Engine) -> None:
    """Its layer was collected: closes it in the next iteration of a loop, or at the next entry.

    Not at once: the garbage collector calls this within any allocation, with any lock taken.
    """
    _dropped.append(engine)
    for loop in list(engine.waiter.loops):
        if soon(loop, _close_dropped):
            return


def _close_dropped() -> None:
    while _dropped:
        try:
            _dropped.popleft().drop()
        except IndexError:
            return  # another thread was quicker
        except Exception:
            logger.exception("a layer that was dropped could not leave in order; others see to it")


@atexit.register
def _end() -> None:
    enter()
    for engine in list(engines):
        try:
            # An alias may name another file by now, as when Django's test runner has ended.
            engine.leave(is_there=engine.source.is_same())
        except Exception:
            logger.exception("a layer could not leave in order; others see to what it left")


def _before_fork() -> None:
    _forking.acquire()
    for engine in list(engines):
        engine.store.pause()


def _after_fork_in_parent() -> None:
    for engine in list(engines):
        engine.store.resume()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking, _pid  # noqa: PLW0603 - the parent's; another thread of it may have held it
    _forking = threading.Lock()
    hooks.after_fork()
    for engine in list(engines):
        engine.after_fork()
    _pid = os.getpid()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork either
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
