"""Machines as network namespaces: three nodes and an engine, connected by veth pairs.

Each node has its own cable to the engine's machine, and none to another node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.relay.engines import Engine

__all__ = ["Network", "has_netem", "why_not"]


def command(*arguments: str) -> str:
    """Runs it; what it said."""
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return done.stdout


def why_not() -> str:
    """Why there can be no namespaces here; "" if there can."""
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("tc"):
        return "network namespaces need Linux, and ip and tc of iproute2"
    name = f"clw{os.getpid()}try"
    try:
        command("ip", "netns", "add", name)
        command("ip", "-n", name, "link", "add", "clw0", "type", "veth", "peer", "name", "clw1")
    except subprocess.CalledProcessError as error:
        return f"network namespaces may not be made here: {error.stderr.strip()}"
    finally:
        with suppress(subprocess.CalledProcessError):
            command("ip", "netns", "del", name)
    return ""


def has_netem() -> bool:
    """Whether this kernel has what delays and loses."""
    name = f"clw{os.getpid()}try"
    command("ip", "netns", "add", name)
    try:
        command("tc", "-n", name, "qdisc", "replace", "dev", "lo", "root", "netem", "delay", "1ms")
    except subprocess.CalledProcessError:
        return False
    finally:
        command("ip", "netns", "del", name)
    return True


class Network:
    """The namespaces ``here``, ``there``, ``third`` and ``engine``; ended by `close`."""

    NODES = ("here", "there", "third")

    def __init__(self) -> None:
        self._names = {each: f"clw{os.getpid()}{each}" for each in (*self.NODES, "engine")}
        with ExitStack() as if_it_fails:
            if_it_fails.callback(self.close)
            self._make()
            if_it_fails.pop_all()

    def _make(self) -> None:
        for name in self._names.values():
            command("ip", "netns", "add", name)
            command("ip", "-n", name, "link", "set", "lo", "up")
        for number, node in enumerate(self.NODES, start=1):
            ends = f"clw{number}", f"clw{number}e"
            command("ip", "-n", self._names[node], "link", "add", ends[0], "type", "veth",
                    "peer", "name", ends[1], "netns", self._names["engine"])  # fmt: skip
            for name, end, last in ((node, ends[0], 2), ("engine", ends[1], 1)):
                address = f"10.97.{number}.{last}/24"
                command("ip", "-n", self._names[name], "address", "add", address, "dev", end)
                command("ip", "-n", self._names[name], "link", "set", end, "up")

    def within(self, name: str) -> tuple[str, ...]:
        """What runs a program on that machine."""
        return ("ip", "netns", "exec", self._names[name])

    def url(self, node: str, engine: Engine) -> str:
        """The engine's, as that node reaches it."""
        return f"{engine.scheme}://10.97.{self.NODES.index(node) + 1}.1:{engine.port}"

    def address(self, node: str) -> str:
        """Of that node, as the engine's machine reaches it."""
        return f"10.97.{self.NODES.index(node) + 1}.2"

    def cable(self, node: str, state: str) -> None:
        """``up`` or ``down``."""
        number = self.NODES.index(node) + 1
        command("ip", "-n", self._names[node], "link", "set", f"clw{number}", state)

    def _ends(self, node: str, *, to_node: bool) -> tuple[str, str, str]:
        """The machine that sends, its end of the cable, and the address of the other end."""
        number = self.NODES.index(node) + 1
        if to_node:
            return self._names["engine"], f"clw{number}e", f"10.97.{number}.2"
        return self._names[node], f"clw{number}", f"10.97.{number}.1"

    def lose(self, node: str, *, to_node: bool) -> None:
        """Loses packets in one direction only."""
        name, end, address = self._ends(node, to_node=to_node)
        nobody = ("lladdr", "02:00:00:00:00:01", "dev", end, "nud", "permanent")
        command("ip", "-n", name, "neighbor", "replace", address, *nobody)

    def find(self, node: str, *, to_node: bool) -> None:
        """Ends `lose`."""
        name, end, address = self._ends(node, to_node=to_node)
        command("ip", "-n", name, "neighbor", "delete", address, "dev", end)

    def spoil(self, node: str, *how: str) -> None:
        """Delays or loses packets in both directions, as ``tc-netem`` does."""
        for to_node in (True, False):
            name, end, _ = self._ends(node, to_node=to_node)
            command("tc", "-n", name, "qdisc", "replace", "dev", end, "root", "netem", *how)

    def repair(self, node: str) -> None:
        """Ends `spoil`."""
        for to_node in (True, False):
            name, end, _ = self._ends(node, to_node=to_node)
            command("tc", "-n", name, "qdisc", "del", "dev", end, "root")

    def close(self) -> None:
        """Deletes the namespaces and their cables."""
        for name in self._names.values():
            with suppress(subprocess.CalledProcessError):
                command("ip", "netns", "del", name)

    def engine(self, kind: type[Engine], folder: Path, *arguments: str, port: int = 4222) -> Engine:
        """One on the engine's machine; not started yet."""
        within = self.within("engine")

        class Away(kind):  # type: ignore[valid-type,misc]
            def command(self) -> list[str]:
                return ["0.0.0.0" if each == "127.0.0.1" else each for each in super().command()]

            def answers(self) -> bool:
                probe = f"import socket; socket.create_connection(('127.0.0.1', {self.port}), 1)"
                asked = [*within, sys.executable, "-c", probe]
                return subprocess.run(asked, check=False, capture_output=True).returncode == 0

        engine = Away(folder, *arguments, port=port)
        engine.within = within
        return engine
