"""A process forks, and ends: what its layers do then."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channels_lite.layers.base import BaseSQLiteChannelLayer

__all__ = ["layers"]

logger = logging.getLogger(__name__)

#: All that are in use; one that is dropped is gone.
layers: weakref.WeakSet[BaseSQLiteChannelLayer] = weakref.WeakSet()

# One fork at a time: between its two hooks the stores stand still.
_forking = threading.Lock()


@atexit.register
def _end() -> None:
    for layer in list(layers):
        try:
            # An alias may name another file by now, as when Django's test runner has ended.
            layer._reader.leave(is_there=layer._source.is_same())
        except Exception:
            logger.exception("a layer could not leave in order; others see to what it left")


def _before_fork() -> None:
    _forking.acquire()
    for layer in list(layers):
        layer._store.pause()


def _after_fork_in_parent() -> None:
    for layer in list(layers):
        layer._store.resume()
    _forking.release()


def _after_fork_in_child() -> None:
    _forking.release()
    for layer in list(layers):
        layer._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork either
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
