"""A project outside of the repository, made by doing what a page says."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.docs.pages import ROOT, Block
from tests.processes.conftest import TIMEOUT

#: Where commands are looked for: beside this Python first.
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
#: Commands that go on until they are stopped.
SERVES = re.compile(
    r"(uvicorn|hypercorn|granian|gunicorn|daphne|uwsgi|celery|litestream replicate) |"
    r"python manage.py runworker "
)
#: What is not run, because the tests' own environment has what it would install.
INSTALLS = re.compile(r"python3 -m venv|source |pip install ")


class Project:
    """A folder in which a page is followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        # Settings are the project's own, whatever pytest has set.
        self.environment = {
            key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"
        } | {"PATH": TOOLS, "PYTHONPATH": str(ROOT)}
        self._serving: list[subprocess.Popen[bytes]] = []

    def write(self, block: Block) -> None:
        """Makes the file that the block is, or adds to it."""
        assert block.file is not None
        path = self.folder / block.file[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() + "\n" if block.file[2] else ""
        path.write_text(before + block.code[block.file.end() :])

    def run(self, command: str) -> str:
        """Runs ``command`` to its end; returns what it said.  Fails when it does."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def start(self, command: str) -> None:
        """Runs ``command`` until `stop`, on a port of this project's own."""
        command = re.sub(r"\b8000\b", str(self.port), command)
        with (self.folder / "log").open("a") as log:
            self._serving.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {command}"],
                    cwd=self.folder,
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def follow(self, steps: Iterable[Block]) -> None:
        """Does what the blocks say, until all are done or something serves."""
        for block in steps:
            if block.file is not None:
                self.write(block)
            for command in block.commands if block.language == "console" else []:
                if SERVES.match(command):
                    self.start(command)
                    return
                if not INSTALLS.match(command):
                    self.run(command)

    def stop(self) -> None:
        """Ends what serves, with its children.

        Not by SIGTERM, at which granian waits for ever if its workers are still starting; that
        servers end as they should is tested in tests/servers.
        """
        serving, self._serving = self._serving, []
        for process in serving:
            with suppress(ProcessLookupError):  # it has ended by itself, and its children
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT)
