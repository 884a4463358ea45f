"""Starts the whole example: uvicorn with four processes, and one worker; stops it at Ctrl-C.

Environment: PORT (8000); EXAMPLE_DATA, the directory for the two databases; and NODES (1), the
number of nodes.  Each node has its own databases, as on its own machine, and listens on the next
port.  An installed NATS or Redis connects them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
WORKERS = 4
START_SECONDS = 60
STOP_SECONDS = 10

MANAGE = [sys.executable, "manage.py"]
UVICORN = [sys.executable, "-m", "uvicorn", "chat.asgi:application", "--lifespan", "off"]

stopping = threading.Event()


def say(text: str) -> None:
    """One line on standard output, at once, for whoever reads it through a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port``."""
    with socket.socket() as sock:
        # As uvicorn does: connections of an earlier run that linger are no obstacle.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port on which no process listens."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether a server listens on ``port``."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def start(command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    """Starts ``command`` in a session of its own, so that Ctrl-C reaches only this process."""
    environment = os.environ | environment
    return subprocess.Popen(command, cwd=HERE, env=environment, start_new_session=True)


def engine(port: int, folder: Path) -> tuple[str, list[str]] | None:
    """The URL and the command of the engine between nodes; None if neither is installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    nats, redis = (shutil.which(name, path=path) for name in ("nats-server", "redis-server"))
    where = ["-a", HOST, "-p", str(port)]
    if nats and importlib.util.find_spec("nats"):
        return f"nats://{HOST}:{port}", [nats, *where, "-js", "-sd", str(folder), "-l", os.devnull]
    if redis and importlib.util.find_spec("redis"):
        quiet = ["--save", "", "--loglevel", "warning"]
        return f"redis://{HOST}:{port}/0", [redis, "--bind", HOST, "--port", str(port), *quiet]
    return None


def stop(children: list[subprocess.Popen[bytes]]) -> None:
    """Asks all to end, waits, and kills what did not listen, with its own children."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"Process {child.pid} did not end by itself; killing it.")
        # As it should be, nothing of it is left (or, to macOS, nothing that may be killed).
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def start_node(port: int, **environment: str) -> list[subprocess.Popen[bytes]]:
    """A server with its processes, and a worker."""
    for arguments in (["migrate"], ["migrate", "channels_lite", "--database", "channels"]):
        migrate = [*MANAGE, *arguments, "--verbosity", "0"]
        of_node = os.environ | environment
        subprocess.run(migrate, cwd=HERE, env=of_node, check=True, start_new_session=True)
    listen = ["--host", HOST, "--port", str(port), "--workers", str(WORKERS)]
    return [
        start([*UVICORN, *listen, "--log-level", "warning"], **environment),
        start([*MANAGE, "runworker", "jobs", "--verbosity", "0"], **environment),
    ]


def run(ports: list[int]) -> int:
    """Runs the example until it is asked to stop, or a part of it ends.  The exit code."""
    children: list[subprocess.Popen[bytes]] = []
    data = Path(os.environ.get("EXAMPLE_DATA", HERE / "data"))
    of_nodes: list[dict[str, str]] = [{}]
    try:
        if len(ports) > 1:
            data.mkdir(parents=True, exist_ok=True)
            found = engine(free_port(), data / "engine")
            if found is None:
                say("Several nodes need NATS or Redis: apt install nats-server or redis-server.")
                return 1
            url, command = found
            children.append(start(command))
            of_nodes = [
                {
                    "CHAT_RELAY": url,
                    "CHAT_NODE": str(number),
                    "EXAMPLE_DATA": str(data / f"node-{number}"),
                }
                for number in range(1, len(ports) + 1)
            ]
        for port, environment in zip(ports, of_nodes, strict=True):
            children += start_node(port, **environment)
        return watch(ports, children)
    finally:
        stop(children)


def watch(ports: list[int], children: list[subprocess.Popen[bytes]]) -> int:
    """Reports when all nodes listen, and returns the exit code at the end."""
    until = time.monotonic() + START_SECONDS
    is_up = False
    while not stopping.wait(0.1):
        for child in children:
            if child.poll() is not None:
                say(f"Process {child.pid} ended with {child.returncode}; stopping the rest.")
                return 1
        if not is_up and all(map(is_listening, ports)):
            is_up = True
            addresses = " and ".join(f"http://{HOST}:{port}/" for port in ports)
            say(f"Chat at {addresses} - open it in two windows; Ctrl-C stops it.")
        if not is_up and time.monotonic() > until:
            say(f"The server did not listen on port {ports[0]} within {START_SECONDS} seconds.")
            return 1
    return 0


def main() -> int:
    """Checks the port, and runs."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "chat.settings"  # whatever the shell had exported
    os.environ["CHAT_DEBUG"] = "1"
    asked = os.environ.get("PORT", "8000")
    if not (asked.isdecimal() and 0 < int(asked) < 65536):
        say(f"PORT is {asked!r}, but must be a number from 1 to 65535.")
        return 1
    nodes = os.environ.get("NODES", "1")
    if not (nodes.isdecimal() and 0 < int(nodes) <= 5):
        say(f"NODES is {nodes!r}, but must be a number from 1 to 5.")
        return 1
    ports = [int(asked) + number for number in range(int(nodes))]
    for port in ports:
        if not is_free(port):
            say(f"Port {port} is in use; choose another one: PORT={port + 1} make demo")
            return 1

    def on_signal(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    try:
        return run(ports)
    except subprocess.CalledProcessError as error:
        say(f"{' '.join(error.cmd[1:])} failed.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
