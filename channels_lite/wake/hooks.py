"""The Python side of the C extension: finds SQLite connections, tests the hooks, and wakes.

A ``sqlite3.Connection`` does not show its ``sqlite3*``.  Two ways lead to it, tried in this order:

1. ``Connection.load_extension``, if Python was built with it: SQLite passes the pointer.  It is the
   only way if SQLite is part of Python's own binary.
2. The pointer is the first field of the object, behind Python's own head; that is so in every
   CPython from 3.9 on.  SQLite's functions come from the library that Python's module is linked to.

Neither is used before a test on a scratch connection, whose INSERT the hook must see.
"""

from __future__ import annotations

import _sqlite3
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, cast

from channels_lite.process import call_in_child
from channels_lite.store.connection import Source

__all__ = ["attach_django", "attach_when_used", "hooks"]

logger = logging.getLogger(__name__)


class Hooks:
    """The extension, or the reason why there is none.  There is one per process: ``hooks``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_loaded = False
        self._reason = ""
        self._hook_reason = ""
        self._lib: Any = None
        self._by_extension = False

    @property
    def reason(self) -> str:
        """Why no process can be woken; "" if it can.  The first call loads the extension."""
        if not self._is_loaded:
            with self._lock:
                if not self._is_loaded:
                    self._reason = self._load()
                    self._hook_reason = self._reason or self._try_hooks()
                    self._is_loaded = True
                    if self._hook_reason and not self._reason:
                        logger.warning(
                            "only sends of the layers wake receivers; rows that other code inserts "
                            "wait for the fallback read: %s",
                            self._hook_reason,
                        )
        return self._reason

    @property
    def hook_reason(self) -> str:
        """Why rows that other code inserts wake no receiver; "" if they do."""
        return self.reason or self._hook_reason

    def _load(self) -> str:
        try:
            from channels_lite.wake import _wakeup  # noqa: PLC0415 - may not have been built
        except ImportError as error:
            return f"the C extension is missing ({error}); pip install channels-lite[notify]"
        self._lib = _wakeup.lib
        return ""

    def _try_hooks(self) -> str:
        # Not through connect(), which may be wrapped.
        with closing(sqlite3.Connection(":memory:")) as scratch:
            if hasattr(scratch, "enable_load_extension"):
                self._by_extension = True
                if self._is_proven(scratch):
                    return ""
                self._by_extension = False
            library = getattr(_sqlite3, "__file__", None) or sys.executable
            failed = self._lib.clw_use_library(os.fsencode(library))
            if failed:
                return f"Python's SQLite cannot be reached ({os.strerror(-failed)})"
            if self._is_proven(scratch):
                return ""
        return "the hooks failed their test on this build of Python"

    def _is_proven(self, scratch: sqlite3.Connection) -> bool:
        pointer = self._pointer(scratch)
        if not pointer or self._lib.clw_attach(pointer, b""):
            return False
        scratch.execute("CREATE TABLE channels_lite_event (id INTEGER PRIMARY KEY)")
        before = self._lib.clw_rows_seen()
        scratch.execute("INSERT INTO channels_lite_event DEFAULT VALUES")
        return bool(self._lib.clw_rows_seen() > before)

    def _pointer(self, connection: sqlite3.Connection) -> Any:
        """The ``sqlite3*`` of ``connection``, or NULL, which is false."""
        if not self._by_extension:
            # A wrong address is noticed before anything is read from it.
            return self._lib.clw_connection_of(id(connection) + object.__basicsize__)
        try:
            connection.enable_load_extension(True)
            try:
                connection.load_extension(self._extension_path())
            finally:
                connection.enable_load_extension(False)
        except sqlite3.Error as error:
            logger.debug("load_extension: %s", error)
        return self._lib.clw_extension_connection()

    @staticmethod
    def _extension_path() -> str:
        from channels_lite.wake import _wakeup  # noqa: PLC0415

        return str(_wakeup.__file__)

    def attach(self, connection: sqlite3.Connection, sidecar: bytes) -> str:
        """Makes rows that ``connection`` commits wake their readers; else returns the reason."""
        if self.hook_reason:
            return self.hook_reason
        own = _own(connection)
        if own is None:
            kind = type(connection)
            return f"{kind.__module__}.{kind.__qualname__} hides Python's own connection"
        pointer = self._pointer(own)
        if not pointer:
            return "the connection belongs to another copy of SQLite than Python's own"
        failed = self._lib.clw_attach(pointer, sidecar)
        return os.strerror(-failed) if failed else ""

    def wake(self, sidecar: bytes, channel: str) -> int:
        """Wakes the readers of ``channel``, after the commit.  Returns how many, or -errno."""
        if self.reason:
            return 0
        return int(self._lib.clw_wake(sidecar, channel.encode()))

    def wake_all(self, sidecar: bytes) -> int:
        """Wakes all processes.  Returns the same as ``wake``."""
        return 0 if self.reason else int(self._lib.clw_wake_all(sidecar))

    def after_fork(self) -> None:
        """In the child, where a thread that was loading the extension does not exist."""
        self._lock = threading.Lock()


def _own(connection: Any) -> sqlite3.Connection | None:
    """Python's own connection.  Instrumentations wrap it, and claim to be of Python's class."""
    while connection is not None:
        if issubclass(type(connection), sqlite3.Connection):
            return cast("sqlite3.Connection", connection)
        connection = getattr(connection, "__wrapped__", None)
    return None


hooks = Hooks()
call_in_child(hooks.after_fork)


def attach_django(connection: Any) -> None:
    """Hooks a connection that this thread has opened, if it is to a file.

    Repeated calls do no harm.
    """
    if connection.is_in_memory_db():
        return
    reason = hooks.attach(connection.connection, Source(connection.alias).sidecar_bytes)
    if reason:
        # Receivers find these rows by their fallback look; the notify layer warns of the cause.
        logger.info("rows inserted on database %r wake no receiver: %s", connection.alias, reason)


def attach_when_used(connection: Any) -> None:
    """Hooks a connection that another thread has opened, before its next statement.

    Only that thread may: it may close the connection at any moment, and SQLite then frees it.
    """
    wrappers = connection.execute_wrappers
    if not any(isinstance(each, _AttachFirst) for each in wrappers):
        # At the front: the context manager `execute_wrapper` takes the last one off.
        wrappers.insert(0, _AttachFirst(connection))


class _AttachFirst:
    """An ``execute_wrapper`` of Django for one statement."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __call__(self, execute: Callable[..., Any], *call: Any) -> Any:
        with suppress(ValueError):  # threads that share the connection have begun one each
            self._connection.execute_wrappers.remove(self)
        attach_django(self._connection)
        return execute(*call)
