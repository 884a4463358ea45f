"""The example itself, as ``make demo`` starts it, with real processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parent / "demo.py"
DEADLINE = 90.0  # seconds; for machines that are very busy


@dataclass
class Demo:
    """A demo that runs."""

    process: subprocess.Popen[str]
    port: int
    address: str

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it.  The exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(port: int | str, data: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts the demo; what it says can be read from its ``stdout``."""
    inherited = {key: os.environ[key] for key in os.environ if key != "DJANGO_SETTINGS_MODULE"}
    return subprocess.Popen(
        [sys.executable, str(DEMO)],
        env=inherited | {"PORT": str(port), "EXAMPLE_DATA": str(data)} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def children_of(pid: int) -> set[int]:
    """Every process below ``pid``."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in table.stdout.splitlines()]
    below = {pid}
    while more := {child for child, parent in pairs if parent in below} - below:
        below |= more
    return below - {pid}


def is_alive(pid: int) -> bool:
    """Whether there is a process with this number."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@contextlib.contextmanager
def running(data: Path, **environment: str) -> Iterator[Demo]:
    """A demo, once it has said where it is; none of its processes is left afterwards."""
    port = free_port()
    process = start(port, data, **environment)
    assert process.stdout is not None
    with process:
        try:
            until = time.monotonic() + DEADLINE
            line = ""
            while not line.startswith("Chat at "):
                ready, _, _ = select.select([process.stdout], [], [], until - time.monotonic())
                assert ready, "the demo did not start in time"
                line = process.stdout.readline()
                assert line, f"the demo ended with {process.wait(DEADLINE)}"
            yield Demo(process, port, line.split()[2])
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(DEADLINE)
                except subprocess.TimeoutExpired:
                    for pid in [*children_of(process.pid), process.pid]:
                        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo for the tests of a module; each uses a room of its own."""
    with running(tmp_path_factory.mktemp("data")) as it:
        yield it
