"""What layers do when their process forks or ends.

Python's hooks for a fork are not called by every program that forks: uWSGI calls none by default,
or, up to Python 3.12, the child's alone.  So each entry point compares the process id, and a child
begins anew then.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from channels_lite.loops import soon

__all__ = ["Member", "add", "call_in_child", "drop", "enter", "members"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Member(Protocol):
    """What belongs to one process, as a layer's engine does."""

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """Those on which it is used."""

    def pause(self) -> None:
        """Before a fork: returns when none of its threads is inside SQLite."""

    def resume(self) -> None:
        """After it, in the parent."""

    def after_fork(self) -> None:
        """After it, in the child: lets go of what is the parent's, and begins anew."""

    def leave(self) -> None:
        """At exit."""

    def drop(self) -> None:
        """Nobody uses it any more, and nobody has closed it.  Waits for nothing."""


_members: weakref.WeakSet[Member] = weakref.WeakSet()
# What a child calls before its members begin anew.
_in_child: list[Callable[[], None]] = []
# One fork at a time: between its two hooks the stores stand still.
_forking = threading.Lock()
# One thread of a child that nobody told of begins anew.
_entering = threading.Lock()
_pid = os.getpid()
_getpid = os.getpid  # twice for each message
# Of layers that were collected without having been closed.
_dropped: deque[Member] = deque()


def add(member: Member) -> None:
    """From now on it is told of forks and of the exit, as long as somebody uses it."""
    _members.add(member)


def members(kind: type[T]) -> list[T]:
    """Those of this kind that are in use."""
    return [each for each in list(_members) if isinstance(each, kind)]


def call_in_child(callback: Callable[[], None]) -> None:
    """Calls it in each forked child, before anything is used there."""
    _in_child.append(callback)


def enter() -> None:
    """Call first at each entry point: notices a fork that nobody told of, and dropped layers."""
    if _getpid() != _pid or _dropped:
        _enter_anew()


def _enter_anew() -> None:
    with _entering:
        if _getpid() != _pid:
            _after_fork_in_child()
    _close_dropped()


def drop(member: Member) -> None:
    """Its layer was collected: closes it in the next iteration of a loop, or at the next entry.

    Not at once: the garbage collector calls this within any allocation, with any lock taken.
    """
    _dropped.append(member)
    for loop in list(member.loops):
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
    for member in list(_members):
        try:
            member.leave()
        except Exception:
            logger.exception("a layer could not leave in order; others see to what it left")


def _before_fork() -> None:
    _forking.acquire()
    for member in list(_members):
        member.pause()


def _after_fork_in_parent() -> None:
    for member in list(_members):
        member.resume()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking, _pid  # noqa: PLW0603 - the parent's; another thread of it may have held it
    _forking = threading.Lock()
    for callback in _in_child:
        callback()
    for member in list(_members):
        member.after_fork()
    _pid = os.getpid()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork either
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
