"""The name of a node, beside its database: ``x.sqlite3-node``.

Facts: tokens begin with it, and what comes from a node of the same name is taken for an echo; so
two nodes of one name do not hear each other.  A database is copied from machine to machine, with
what lies beside it or without.
So: a random name, and with it the number of the very file that it is in.  A copy of the file has
another number, and gets a name of its own.  A machine that was cloned whole has the same number; it
is found out by its processes, which are not among those that lie beside our database.

Thread: any; processes that make it at the same moment wait for each other.
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

#: Characters of a node's name, which a token begins with.
NODE_LENGTH = 10
# Of the file; what is longer is none of ours.
_SIZE = 100
# Tries of one who makes it while others do.
_TRIES = 100


def random_node() -> str:
    """A name that nobody has."""
    return secrets.token_hex(NODE_LENGTH // 2)


def token_in(node: str) -> str:
    """A new token for a process of this node, as long as any other."""
    return node + secrets.token_hex(16 - NODE_LENGTH // 2)


def node_of(token: str) -> str:
    """The node that a token is of."""
    return token[:NODE_LENGTH]


def node_file(database: Path) -> Path:
    """Where the name of the node lies."""
    return database.with_name(f"{database.name}-node")


def known_name(database: Path) -> str:
    """The same; "" if there is none."""
    return _read(node_file(database))


def name_of(database: Path) -> str:
    """The name of the node whose database this is; made if there is none.

    Raises ``OSError`` where it cannot be.
    """
    path = node_file(database)
    for _ in range(_TRIES):
        name = _read(path)
        if name:
            return name
        _make(path)
    raise OSError(f"{path} is changed by others all the time")


def _read(path: Path) -> str:
    """The name in it; "": there is none, or it is that of the file that this is a copy of."""
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
    """Puts a new one there, unless another process is quicker."""
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
    """One process at a time in this directory, where the system knows how."""

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
