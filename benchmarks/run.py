"""Runs workloads: rounds, in each of which every peer has its turn, so a slow minute hits all.

What has been measured is in ``Run.found`` at any time, for an interrupted run keeps it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, package_versions
from benchmarks.peers import PEERS, Peer, missing_package, rounds_of
from benchmarks.servers import Missing, install_old_release, postgres, redis
from benchmarks.stage import ChildFailed, Stage
from benchmarks.workloads import load

__all__ = ["Run"]

SERVERS: dict[str, Callable[[], AbstractContextManager[dict[str, Any]]]] = {
    "redis": redis,
    "postgres": postgres,
}


def without_paths(problem: Exception) -> str:
    """Its text, as it may stand in a results file."""
    text = str(problem)
    for path in (tempfile.gettempdir(), str(Path(__file__).parent.parent), sys.prefix):
        text = text.replace(path, "...")
    return text


def require_packages(peer: Peer) -> None:
    """Raises ``Missing``."""
    package = missing_package(peer)
    if package:
        raise Missing(f"the package {package} is not installed")


class Run:
    """A context: servers live in it.  ``say`` gets one line per step, ``warn`` what goes wrong."""

    def __init__(
        self,
        layers: list[str],
        short: bool,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        self._layers, self._short, self._say, self._warn = layers, short, say, warn
        self._servers: dict[str, dict[str, Any]] = {}
        self._templates: dict[str, Path | None] = {}  # by Peer.tables
        self._stack = ExitStack()
        self._started = time.monotonic()
        self.found: dict[str, Any] = {
            "format": 1,
            "state": "interrupted",
            "short": short,
            "machine": describe_machine(),
            "versions": package_versions(),
            "peers": {},
            "skipped": {},
            "failed": [],
            "workloads": {},
        }

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()
        self.found["seconds"] = round(time.monotonic() - self._started, 1)

    def run(self, names: list[str]) -> None:
        """All of these workloads."""
        for name in names:
            self._run_workload(name)
        self.found["state"] = "complete"

    def _run_workload(self, name: str) -> None:
        workload = load(name)
        plan = workload.plan(self._short)
        found: dict[str, Any] = {"title": workload.TITLE, "plan": plan, "turns": []}
        self.found["workloads"][name] = found
        asked = [peer for peer in workload.PEERS if self._is_asked(PEERS[peer])]
        if not asked:
            self._warn(f"{name} takes none of these layers; it takes {', '.join(workload.PEERS)}")
        peers = [PEERS[peer] for peer in asked if self._prepare(PEERS[peer])]
        rounds = {peer.name: rounds_of(peer, plan) for peer in peers}
        for turn in range(max(rounds.values(), default=0)):
            # Another one begins each time.
            shift = turn % len(peers)
            for peer in peers[shift:] + peers[:shift]:
                if turn >= rounds[peer.name]:
                    continue
                self._say(f"{name}: round {turn + 1} of {rounds[peer.name]}, {peer.name}")
                started = time.monotonic()
                try:
                    with self._stage(peer) as stage:
                        figures = workload.measure(stage, plan, turn)
                except Missing as problem:
                    self._warn(f"skipped {name}: {problem}")
                    continue
                except ChildFailed as problem:
                    self._note_failure(name, peer.name, turn, without_paths(problem))
                    continue
                seconds = round(time.monotonic() - started, 2)
                found["turns"].append(
                    {"peer": peer.name, "round": turn, "seconds": seconds, "figures": figures}
                )

    def _is_asked(self, peer: Peer) -> bool:
        """Those named, or all; a smoke test has no time for one that differs in its set-up only."""
        if self._layers:
            return peer.name in self._layers
        return not (self._short and (peer.is_old or peer.is_bare))

    def _note_failure(self, name: str, peer: str, turn: int, why: str) -> None:
        self.found["failed"].append({"workload": name, "peer": peer, "round": turn, "why": why})
        self._warn(f"failed in {name}, round {turn + 1}: {why}")

    def _stage(self, peer: Peer) -> Stage:
        servers = {peer.server: self._servers[peer.server]} if peer.server else {}
        return Stage(peer, servers, self._templates[peer.tables])

    def _prepare(self, peer: Peer) -> bool:
        """Starts and installs what ``peer`` needs, once; False when it has to be skipped."""
        if peer.name in self.found["skipped"]:
            return False
        if peer.name in self.found["peers"]:
            return True
        try:
            require_packages(peer)
            if peer.server and peer.server not in self._servers:
                self._say(f"starting {peer.server}")
                place = self._stack.enter_context(SERVERS[peer.server]())
                self._servers[peer.server] = place
                self.found["versions"][f"{peer.server} server"] = place["version"]
            if peer.is_old:
                install_old_release(self._say)
            if peer.tables not in self._templates:
                self._templates[peer.tables] = self._migrated(peer) if peer.tables else None
        except (Missing, ChildFailed) as problem:
            why = without_paths(problem)
            self.found["skipped"][peer.name] = why
            self._warn(f"skipped {peer.name}: {why}")
            return False
        self.found["peers"][peer.name] = peer.about
        return True

    def _migrated(self, peer: Peer) -> Path:
        """A folder with the tables made, which each turn copies; empty if a server has them."""
        self._say(f"making the tables of {peer.name}")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory("-channels-bench")))
        servers = {peer.server: self._servers[peer.server]} if peer.server else {}
        with Stage(peer, servers, None) as stage:
            (child,) = stage.start(1)
            child.run("benchmarks.child:migrate")
            child.result()
            child.close()
            stage.keep("channels.sqlite3", folder)
        return folder
