"""Real servers, each in a process group of its own, so that whatever is left of one is seen."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes.conftest import (  # noqa: F401 - fixtures
    TIMEOUT,
    child_environment,
    empty_database,
    folder,
    start,
    write_ahead_log,
)

Run = Callable[..., "Server"]


class Server:
    """A module of this Python that runs, or a program with its path; and what it starts."""

    def __init__(self, command: list[str], place: Path, log: Path, **environment: str) -> None:
        if not Path(command[0]).is_absolute():
            command = [sys.executable, "-m", *command]
        config = '{"polling_interval": 60, "capacity": 10000}'  # nothing comes by a look alone
        self.log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                env=child_environment(place, **{"TEST_CONFIG": config} | environment),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """To the process that was started, as a service manager does."""
        self._process.send_signal(number)

    def wait(self) -> None:
        """Until the process that was started has ended."""
        self._process.wait(TIMEOUT)

    def is_gone(self) -> bool:
        """Whether nothing is left, neither of it nor of what it has started."""
        self._process.poll()
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT)


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:  # noqa: F811
    """Starts a command: ``run("uvicorn", "--port", "8000", "...")``."""
    servers: list[Server] = []

    def run(*command: str, **environment: str) -> Server:
        log = folder / f"server-{len(servers)}.log"
        servers.append(Server(list(command), folder, log, **environment))
        return servers[-1]

    yield run
    for server in servers:
        server.kill()


def free_port() -> str:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
