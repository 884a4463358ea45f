"""Where one peer has one turn: a fresh database, and child processes that end with it."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.interrupts import held
from benchmarks.peers import Peer

__all__ = ["Child", "ChildFailed", "Figures", "Stage"]

Figures = dict[str, dict[str, Any]]
ROOT = Path(__file__).parent.parent
#: Seconds that a child may take for one step, unless the step says otherwise.
PATIENCE = 30.0


class ChildFailed(Exception):
    """A child raised, died, or did not answer in time; says which step, and why."""


class Child:
    """The parent's side of `benchmarks.child`."""

    def __init__(self, peer: Peer, place: dict[str, Any]):
        self._name = peer.name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        # A session of its own: Ctrl-C reaches the parent only, which then ends its children.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._buffer = b""
        self._send({"peer": peer.name, "place": place})

    @property
    def pid(self) -> int:
        """For whoever reads /proc, or attaches a tool."""
        return self._process.pid

    def run(self, role: str, **arguments: object) -> None:
        """Starts ``role``, named "package.module:function", in the child."""
        self._send({"run": role, "arguments": arguments})

    def go(self, value: object = None) -> None:
        """Lets the role pass its next ``hear()``."""
        self._send({"go": value})

    def expect(self, kind: str, seconds: float = PATIENCE) -> Any:
        """The value of the child's next line, which must be of that kind."""
        line = self._read_line(kind, seconds)
        if kind not in line:
            problem = line.get("error", f"said {line} where {kind!r} was due")
            raise ChildFailed(f"{self._name}: {problem}")
        return line[kind]

    def ready(self, seconds: float = PATIENCE) -> Any:
        """Waits for the role's "ready"."""
        return self.expect("ready", seconds)

    def result(self, seconds: float = PATIENCE) -> Any:
        """Waits for what the role returns."""
        return self.expect("result", seconds)

    def close(self) -> None:
        """Lets it end by itself, and waits; its last connection then empties the WAL."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def end(self) -> None:
        """Kills it, and waits until it is gone; never raises for one that is gone already."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    def _send(self, line: dict[str, Any]) -> None:
        try:
            os.write(self._stdin, json.dumps(line).encode() + b"\n")
        except BrokenPipeError:
            raise ChildFailed(f"{self._name}: {self._last_words()}") from None

    def _read_line(self, kind: str, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                words = self._last_words()
                raise ChildFailed(f"{self._name}: no {kind!r} within {seconds:.0f} s; {words}")
            chunk = os.read(self._stdout, 1 << 20)
            if not chunk:
                self._process.wait(5)
                raise ChildFailed(f"{self._name}: ended before {kind!r}; {self._last_words()}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing on its stderr"


class Stage:
    """A context for one turn: ``start()`` children in it, and they are gone after it."""

    def __init__(self, peer: Peer, servers: dict[str, Any], template: Path | None):
        self.peer = peer
        self._folder = tempfile.mkdtemp(prefix="channels-bench-")
        if template is not None:
            shutil.copytree(template, self._folder, dirs_exist_ok=True)
        self.place = {"folder": self._folder, **servers}
        self._children: list[Child] = []

    def start(self, count: int) -> list[Child]:
        """``count`` more processes, up and with Django configured."""
        children = []
        for _ in range(count):
            with held():
                child = Child(self.peer, self.place)
                self._children.append(child)
            children.append(child)
        for child in children:
            child.expect("up", PATIENCE + count)
        return children

    def keep(self, name: str, folder: Path) -> None:
        """Copies a file of the stage to ``folder``, if it is there, with what goes with it."""
        for path in Path(self._folder).glob(f"{name}*"):
            if path.is_file():
                shutil.copy2(path, folder)

    def end(self, children: Iterable[Child]) -> None:
        """Ends some before the stage does, where they would disturb what comes next."""
        for child in children:
            child.end()
            self._children.remove(child)

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(list(self._children))
        shutil.rmtree(self._folder, ignore_errors=True)
