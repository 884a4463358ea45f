"""The name of a node, beside its database: ``x.sqlite3-node``.

Facts: tokens start with it, and a message from a node of the same name counts as an echo.  So two
nodes with one name do not receive each other's messages.  Databases are copied between machines,
with or without the files beside them.
So: a random name, with the inode number of the file that contains it.  A copy of the file has
another number, so its node gets a new name.  A machine that was cloned whole has the same number.
Its processes are noticed because they have no FIFO beside this database.

Thread: any; processes that create it at the same moment wait for each other.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

__all__ = [
    "NODE_LENGTH",
    "known_name",
    "name_of",
    "node_file",
    "node_of",
    "random_node",
    "token_in",
]

#: Characters of a node's name, with which a token starts.
NODE_LENGTH = 10
# The maximum size of the file.
_SIZE = 100
# Tries to create it while other processes do.
_TRIES = 100


def random_node() -> str:
    """A new, unique name."""
    return secrets.token_hex(NODE_LENGTH // 2)


def token_in(node: str) -> str:
    """A new token for a process of this node, of the usual length."""
    return node + secrets.token_hex(16 - NODE_LENGTH // 2)


def node_of(token: str) -> str:
    """The node of a token."""
    return token[:NODE_LENGTH]


def node_file(database: Path) -> Path:
    """The file with the name of the node."""
    return database.with_name(f"{database.name}-node")


def known_name(database: Path) -> str:
    """The name of the node whose database this is; "" if there is none."""
    return _read(node_file(database))


def name_of(database: Path) -> str:
    """The name of the node whose database this is; creates it if there is none.

    Raises ``OSError`` if it cannot.
    """
    path = node_file(database)
    for _ in range(_TRIES):
        name = _read(path)
        if name:
            return name
        _make(path)
    raise OSError(f"{path} is constantly changed by other processes")


def _read(path: Path) -> str:
    """The name in the file; "" if there is none, or if the file is a copy."""
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            name, _, number = os.read(fd, _SIZE).decode("ascii", "replace").strip().partition(" ")
            is_ours = number == str(os.fstat(fd).st_ino) and len(name) == NODE_LENGTH
            return name if is_ours and name.isalnum() else ""
        finally:
            os.close(fd)
    return ""


def _make(path: Path) -> None:
    """Creates the file, unless another process was faster."""
    making = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, f"{random_node()} {os.fstat(fd).st_ino}\n".encode())
        with _locked(path.parent):
            if not _read(path):
                making.replace(path)
    finally:
        os.close(fd)
        making.unlink(missing_ok=True)


class _locked:  # noqa: N801 - a context manager, used as a function
    """A lock on the directory, on systems that have one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1

    def __enter__(self) -> None:
        with suppress(ImportError):  # Windows
            import fcntl  # noqa: PLC0415

            self._fd = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
