"""Real engines on free ports of the loopback, started by a test and ended by their pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

__all__ = ["Engine", "NatsServer", "RedisServer", "free_port"]

TIMEOUT = 20


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Engine:
    """One server; ``url`` is what CONFIG has."""

    binary = ""
    scheme = ""
    #: What runs it on another machine.
    within: tuple[str, ...] = ()

    def __init__(self, folder: Path, *arguments: str, login: str = "", port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._arguments = arguments
        self.url = f"{self.scheme}://{login}127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def path(cls) -> str | None:
        return shutil.which(cls.binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> Engine:
        """Returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.within, self.path(), *self.command(), *self._arguments],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + TIMEOUT
        with ExitStack() as if_it_fails:
            if_it_fails.callback(self.kill)
            while not self.answers():
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if_it_fails.pop_all()
        return self

    def answers(self) -> bool:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port), 1)):
            return True
        return False

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
    binary, scheme = "nats-server", "nats"

    def command(self) -> list[str]:
        return ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "js")]


class RedisServer(Engine):
    binary, scheme = "redis-server", "redis"

    def command(self) -> list[str]:
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        return [*where, "--save", "", "--protected-mode", "no"]
