"""Real engines on free ports of the loopback, started by a test and ended by their pid."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

__all__ = ["Engine", "NatsServer", "RedisServer", "free_port"]

TIMEOUT = 20


#: Below those that the kernel gives to outgoing connections, so that a server which is killed finds
#: its port again.
PORTS = range(12_000, 32_000)
# Hypothesis seeds the module's own generator, so that all workers of pytest would take the same.
_random = random.SystemRandom()


def free_port() -> int:
    """One on which nothing listens; `Engine.start` takes another one if it is taken meanwhile."""
    while True:
        port = _random.choice(PORTS)
        with suppress(OSError), closing(socket.socket()) as found:
            found.bind(("127.0.0.1", port))
            return port


class Engine:
    """One server; ``url`` is what CONFIG has."""

    binary = ""
    scheme = ""
    #: What its log says when it takes connections.
    ready = b""
    #: What runs it on another machine.
    within: tuple[str, ...] = ()

    def __init__(self, folder: Path, *arguments: str, login: str = "", port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._arguments = arguments
        self._login = login
        self._has_run = bool(port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        self._has_run = True  # somebody knows its port
        return f"{self.scheme}://{self._login}127.0.0.1:{self.port}"

    @classmethod
    def path(cls) -> str | None:
        return shutil.which(cls.binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> Engine:
        """Returns when it takes connections."""
        while not self._is_started():
            assert not self._has_run, (self.folder / "log").read_text()
            self.port = free_port()
        self._has_run = True
        return self

    def _is_started(self) -> bool:
        """False: it has ended, perhaps because its port is taken."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                [*self.within, self.path(), *self.command(), *self._arguments],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + TIMEOUT
        with ExitStack() as if_it_fails:
            if_it_fails.callback(self.kill)
            # A connection would say less: another server may have taken the port.
            while self.ready not in (self.folder / "log").read_bytes()[begin:]:
                if self._process.poll() is not None:
                    return False
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if_it_fails.pop_all()
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Returns when all its threads are stopped."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class NatsServer(Engine):
    binary, scheme, ready = "nats-server", "nats", b"Server is ready"

    def command(self) -> list[str]:
        return ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "js")]


class RedisServer(Engine):
    binary, scheme, ready = "redis-server", "redis", b"Ready to accept connections"

    def command(self) -> list[str]:
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        return [*where, "--save", "", "--protected-mode", "no"]
