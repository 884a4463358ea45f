"""Processes under a test's control, on one database."""

from __future__ import annotations

import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.processes.forks import IS_POSSIBLE, Forked

# Seconds; nothing that works takes as long, and a fallback look would come later.
TIMEOUT = 20
LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]


class Child:
    """One process of ``tests.processes.child``."""

    def __init__(
        self, folder: Path, log: Path, within: tuple[str, ...] = (), **environment: str
    ) -> None:
        self.log = log
        self._database = folder / "default.sqlite3"
        self._process = _begun(child_environment(folder, **environment), log, within)
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._received: queue.Queue[dict[str, Any]] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        assert self._answers.get(timeout=TIMEOUT)["ready"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def _listen(self) -> None:
        for line in self._process.stdout:
            said = json.loads(line)
            (self._received if "received" in said else self._answers).put(said)

    def do(self, command: str, **arguments: Any) -> Any:
        """Runs a command there, and returns its value."""
        self.begin(command, **arguments)
        return self.finish()

    def begin(self, command: str, **arguments: Any) -> None:
        """Runs a command there."""
        self._process.stdin.write(json.dumps({"do": command} | arguments) + "\n")
        self._process.stdin.flush()

    def finish(self, timeout: float = TIMEOUT) -> Any:
        """The value of the command that was begun."""
        answer = self._answers.get(timeout=timeout)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def replace(self) -> None:
        """It runs its program from the start, in the same process."""
        self.begin("replace")
        assert self._answers.get(timeout=TIMEOUT)["ready"]

    def wait_until_stopped(self) -> None:
        """At a fail point, or by a signal."""
        stat = Path(f"/proc/{self.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """It stands still until `go_on`, at a moment when nobody has the write lock."""
        while True:
            self.signal(signal.SIGSTOP)
            self.wait_until_stopped()
            try:
                with closing(sqlite3.connect(self._database, timeout=0)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                self.go_on()
            else:
                return

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def received(self) -> dict[str, Any]:
        """The next message that it received: ``received``, ``channel`` and ``at``."""
        return self._received.get(timeout=TIMEOUT)

    def messages(self, count: int) -> list[dict[str, Any]]:
        return [self.received()["received"] for _ in range(count)]

    def heard(self, count: int) -> list[dict[str, Any]]:
        """The next ``count`` that it received, or fewer when none comes for long."""
        found = []
        with suppress(queue.Empty):
            while len(found) < count:
                found.append(self.received())
        return found

    def has_received(self) -> bool:
        return not self._received.empty()

    def kill(self) -> None:
        """SIGKILL: nothing of its own is tidied up."""
        self._process.kill()
        self._let_go()

    def begin_to_end(self) -> None:
        """Ends its standard input, and so the process; `end` waits for it."""
        self._process.stdin.close()

    def end(self) -> None:
        """Ends its standard input, and so the process; it has to end by itself."""
        try:
            self.begin_to_end()
            self._process.wait(TIMEOUT)
        finally:
            self.kill()

    def _let_go(self) -> None:
        self._process.wait()
        self._listener.join()
        self._process.stdin.close()
        self._process.stdout.close()


def _begun(
    environment: dict[str, str], log: Path, within: tuple[str, ...]
) -> Forked | subprocess.Popen[str]:
    with log.open("a") as errors:
        if IS_POSSIBLE and not within:
            return Forked(environment, errors.fileno())
        return subprocess.Popen(
            [*within, sys.executable, "-m", "tests.processes.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )


def end_all(children: list[Child]) -> None:
    """Ends those that live, at the same time."""
    living = [child for child in children if child._process.returncode is None]
    for child in living:
        child.begin_to_end()
    for child in living:
        child.end()


def wait_until(condition: Callable[[], bool]) -> None:
    """For what no event tells of."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def child_environment(folder: Path, **environment: str) -> dict[str, str]:
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.processes.settings",
        "TEST_FOLDER": str(folder),
        **environment,
    }


def run_script(
    folder: Path, script: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What a script on that database printed, and how it ended; ``options`` are Python's."""
    return subprocess.run(
        [sys.executable, *options, "-c", script],
        env=child_environment(folder, **environment),
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
        check=False,
    )


def configured(layer: str, **config: Any) -> dict[str, str]:
    """The environment of a process with that CONFIG; what notify delivers comes by a wake-up."""
    interval = 60 if layer.startswith("notify") else 0.05
    return {"TEST_CONFIG": json.dumps({"polling_interval": interval} | config)}


#: For tests of a child that alone is told of a fork.  From 3.13 on, its PyOS_AfterFork_Child gives
#: back the import lock that PyOS_BeforeFork has taken.
can_tell_child_alone = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Python 3.13 ends a child that alone is told of a fork"
)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated file, made once."""
    folder = tmp_path_factory.mktemp("migrated")
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "-v0"],
        env=child_environment(folder),
        check=True,
    )
    return (folder / "default.sqlite3").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, empty_database: bytes) -> Path:
    """A folder with a migrated database."""
    (tmp_path / "default.sqlite3").write_bytes(empty_database)
    return tmp_path


@pytest.fixture
def write_ahead_log(folder: Path) -> None:
    """The database is as the checks want it, also for Django's own connections."""
    with closing(sqlite3.connect(folder / "default.sqlite3")) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Child]]:
    """Starts a process: ``start("aio.AIOSQLiteChannelLayer", TEST_CONFIG="{...}")``."""
    children: list[Child] = []

    def start(layer: str = "notify.NotifyChannelLayer", **environment: str) -> Child:
        log = folder / f"{len(children)}.log"
        children.append(Child(folder, log, TEST_LAYER=layer, **environment))
        return children[-1]

    yield start
    end_all(children)
