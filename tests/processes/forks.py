"""Starts processes of `child` by forking one that has imported Django, which takes half a second.

That one, the fork server, has one thread, no settings, and nothing of our package.  What it forks
imports the rest as in a new process, and ends as Python does.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache

# Of Linux, like the sockets that keep requests apart.
IS_POSSIBLE = hasattr(os, "pidfd_open")
# Bytes; an environment is a request.
LARGEST = 1 << 18


class Forked:
    """A process, with as much of ``subprocess.Popen`` as `Child` uses."""

    def __init__(self, environment: dict[str, str], errors: int) -> None:
        (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
        self.pid, self._fd = _server().fork(environment, [theirs_in, theirs_out, errors])
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin = open(ours_in, "w")  # noqa: PTH123, SIM115 - a descriptor
        self.stdout = open(ours_out)  # noqa: PTH123, SIM115
        #: None while it lives; how it ended, only the server could know.
        self.returncode: int | None = None
        self._ends = select.poll()
        self._ends.register(self._fd)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> None:
        """Raises ``TimeoutExpired``, after seconds."""
        if self.returncode is not None:
            return
        if not self._ends.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        self.returncode = 0
        os.close(self._fd)


class _Server:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # It ends with our end of the socket.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.forks", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def fork(self, environment: dict[str, str], descriptors: list[int]) -> tuple[int, int]:
        """The number of the new process, and a descriptor of it."""
        request = json.dumps([os.getcwd(), environment]).encode()  # noqa: PTH109
        with self._lock:
            socket.send_fds(self._socket, [request], descriptors)
            pid, [fd], _, _ = socket.recv_fds(self._socket, LARGEST, 1)
        return int(pid), fd


@cache
def _server() -> _Server:
    return _Server()


def _serve(requests: socket.socket) -> tuple[bytes, list[int]]:
    """Forks for each request.  Returns in what was forked, with the request."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none stays a zombie
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LARGEST, 3)
        if not request:
            sys.exit()
        pid = os.fork()
        if pid == 0:
            return request, descriptors
        fd = os.pidfd_open(pid)
        socket.send_fds(requests, [str(pid).encode()], [fd])
        for each in (fd, *descriptors):
            os.close(each)


def _begin(request: bytes, descriptors: list[int]) -> None:
    """As a new process begins."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, each in enumerate(descriptors):
        os.dup2(each, number)
        os.close(each)
    folder, environment = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.orig_argv[:] = [sys.executable, "-m", "tests.processes.child"]


def _main(fd: int) -> None:
    for module in (
        "_cffi_backend", "aiosqlite", "asyncio", "channels.layers", "ctypes", "django.core.mail",
        "django.core.management", "django.db.backends.sqlite3.base", "django.db.migrations.loader",
        "django.db.models", "django.urls", "django.utils.log", "django.views.debug",
        "logging.config", "msgspec", "resource",
    ):  # fmt: skip
        with suppress(ImportError):  # an extra
            __import__(module)
    with socket.socket(fileno=fd) as requests:
        request, descriptors = _serve(requests)
    _begin(request, descriptors)
    runpy.run_module("tests.processes.child", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
