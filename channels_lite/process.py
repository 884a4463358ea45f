"""What layers do when their process forks or exits.

Not every program that forks calls Python's fork hooks: uWSGI by default calls none, or, until
Python 3.12, only that of the child.  So each entry point checks that this is still the same
process, and a child then resets its layers.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import mmap
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol, TypeVar

from channels_lite.loops import soon

__all__ = ["Member", "add", "call_in_child", "drop", "enter", "members"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of Linux 4.14 and later: in a forked child the page is empty.
MADV_WIPEONFORK = 18


class _ProcessId:
    """True at index 0 in this process, False in a forked child.  Costs a system call."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int) -> bool:
        return os.getpid() == self._pid


def _mark_of_this_process() -> mmap.mmap | _ProcessId:
    """The same as a page of memory, which costs a tenth, where the kernel supports it."""
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel or an emulator without it
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(MADV_WIPEONFORK)
            page[0] = 1
            return page
    return _ProcessId()


class Member(Protocol):
    """An object that belongs to one process, such as a layer's engine."""

    @property
    def loops(self) -> Iterable[asyncio.AbstractEventLoop]:
        """The loops on which it is used."""

    def pause(self) -> None:
        """Before a fork: returns when none of its threads is inside SQLite."""

    def resume(self) -> None:
        """After a fork, in the parent."""

    def after_fork(self) -> None:
        """After a fork, in the child: abandons the parent's resources, and starts again."""

    def leave(self) -> None:
        """At exit."""

    def drop(self) -> None:
        """Called if it is no longer used, and was not closed.  Waits for nothing."""


_members: weakref.WeakSet[Member] = weakref.WeakSet()
# A child calls these before it resets its members.
_in_child: list[Callable[[], None]] = []
# One fork at a time: the stores pause between its two hooks.
_forking = threading.Lock()
# After a fork without hooks, one thread of the child resets the members.
_entering = threading.Lock()
# Read twice for each message.
_is_this_process = _mark_of_this_process()
# Engines of layers that were garbage-collected without being closed.
_dropped: deque[Member] = deque()


def add(member: Member) -> None:
    """Calls ``member`` at forks and at exit from now on, as long as it is referenced."""
    _members.add(member)


def _all() -> list[Member]:
    while True:
        # Without a lock, which a finalizer might find taken by its own thread.
        with suppress(RuntimeError):  # another thread has just added one
            return list(_members)


def members(kind: type[T]) -> list[T]:
    """The members of this kind that are in use."""
    return [each for each in _all() if isinstance(each, kind)]


def call_in_child(callback: Callable[[], None]) -> None:
    """Calls ``callback`` in each forked child, before anything is used there."""
    _in_child.append(callback)


def enter() -> None:
    """Call first at each entry point: notices a fork without hooks, and dropped layers."""
    if not _is_this_process[0] or _dropped:
        _enter_anew()


def _enter_anew() -> None:
    with _entering:
        if not _is_this_process[0]:
            _after_fork_in_child()
    _close_dropped()


def drop(member: Member) -> None:
    """The layer was garbage-collected: closes ``member`` in the next iteration of a loop, or at the
    next entry.

    Not at once: the garbage collector may call this within any allocation, while any lock is held.
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
            return  # another thread was faster
        except Exception:
            logger.exception("a dropped layer could not clean up; other processes will do so")


@atexit.register
def _end() -> None:
    enter()
    for member in _all():
        try:
            member.leave()
        except Exception:
            logger.exception("a layer could not clean up at exit; other processes will do so")


def _before_fork() -> None:
    _forking.acquire()
    for member in _all():
        member.pause()


def _after_fork_in_parent() -> None:
    for member in _all():
        member.resume()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking, _is_this_process  # noqa: PLW0603 - the parent's, whose lock may be held
    _forking = threading.Lock()
    for callback in _in_child:
        callback()
    for member in _all():
        member.after_fork()
    _is_this_process = _mark_of_this_process()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork either
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
