"""Starts the whole example: uvicorn with four processes, and one worker; stops it at Ctrl-C.

Environment: PORT (8000), and EXAMPLE_DATA, the directory for the two databases.
"""

from __future__ import annotations

import contextlib
import os
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


def is_listening(port: int) -> bool:
    """Whether a server listens on ``port``."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Starts ``command`` in a session of its own, so that Ctrl-C reaches only this process."""
    return subprocess.Popen(command, cwd=HERE, start_new_session=True)


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


def run(port: int) -> int:
    """Runs the example until it is asked to stop, or a part of it ends.  The exit code."""
    for arguments in (["migrate"], ["migrate", "channels_lite", "--database", "channels"]):
        migrate = [*MANAGE, *arguments, "--verbosity", "0"]
        subprocess.run(migrate, cwd=HERE, check=True, start_new_session=True)
    listen = ["--host", HOST, "--port", str(port), "--workers", str(WORKERS)]
    children: list[subprocess.Popen[bytes]] = []
    until = time.monotonic() + START_SECONDS
    is_up = False
    try:
        children.append(start([*UVICORN, *listen, "--log-level", "warning"]))
        children.append(start([*MANAGE, "runworker", "jobs", "--verbosity", "0"]))
        while not stopping.wait(0.1):
            for child in children:
                if child.poll() is not None:
                    say(f"Process {child.pid} ended with {child.returncode}; stopping the rest.")
                    return 1
            if not is_up and is_listening(port):
                is_up = True
                say(f"Chat at http://{HOST}:{port}/ - open it in two windows; Ctrl-C stops it.")
            if not is_up and time.monotonic() > until:
                say(f"The server did not listen on port {port} within {START_SECONDS} seconds.")
                return 1
    finally:
        stop(children)
    return 0


def main() -> int:
    """Checks the port, and runs."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "chat.settings"  # whatever the shell had exported
    asked = os.environ.get("PORT", "8000")
    if not (asked.isdecimal() and 0 < int(asked) < 65536):
        say(f"PORT is {asked!r}, but must be a number from 1 to 65535.")
        return 1
    port = int(asked)
    if not is_free(port):
        say(f"Port {port} is in use; choose another one: PORT={port + 1} make demo")
        return 1

    def on_signal(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    try:
        return run(port)
    except subprocess.CalledProcessError as error:
        say(f"{' '.join(error.cmd[1:])} failed.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
