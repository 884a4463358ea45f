"""A Redis and a PostgreSQL of our own, on free ports of the loopback, in temporary folders.

They are started for the peers that ask for them, and are gone when the context is left.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.interrupts import held
from benchmarks.peers import OLD

__all__ = ["Missing", "cpu_seconds", "install_old_release", "postgres", "redis"]

OLD_RELEASE = ["channels-lite==0.4.0", "aiosqlitepool==1.0.0"]
PATIENCE = 20.0  # seconds for a server to answer


class Missing(Exception):
    """A peer cannot be measured here; the text says why, in one line."""


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def redis() -> Iterator[dict[str, Any]]:
    """Yields ``{"port", "pid", "version"}``.  Raises ``Missing``."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("redis-server is not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)

    def start(port: int, folder: str) -> list[str]:
        # No persistence: the messages of a layer are not meant to survive.
        return [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                "--appendonly", "no", "--dir", folder]  # fmt: skip

    with (
        tempfile.TemporaryDirectory(prefix="channels-bench-") as folder,
        running("redis-server", start, folder, is_redis_up, None) as (port, pid),
    ):
        name = version.stdout.split("v=")[-1].split()[0]
        yield {"port": port, "pid": pid, "version": name}


def is_redis_up(port: int) -> bool:
    """Whether it answers a PING."""
    with socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")


@contextmanager
def postgres() -> Iterator[dict[str, Any]]:
    """Yields ``{"port", "pid", "version", "user"}``.  Raises ``Missing``."""
    program = shutil.which("initdb") or max(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None
    )
    if program is None:
        raise Missing("PostgreSQL (initdb and postgres) is not installed")
    programs = Path(program).resolve().parent  # Debian links it from elsewhere
    # It refuses to run as root.
    account = "postgres" if os.getuid() == 0 else None
    user = account or getpass.getuser()
    with tempfile.TemporaryDirectory(
        prefix="channels-bench-", ignore_cleanup_errors=True
    ) as folder:
        try:
            if account:
                shutil.chown(folder, account)
            made = subprocess.run(
                [program, "-D", f"{folder}/data", "-A", "trust", "-U", user, "--no-sync"],
                user=account, cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
        except (LookupError, PermissionError) as problem:
            raise Missing(f"initdb cannot run: {problem}") from None
        if made.returncode:
            raise Missing(f"initdb failed: {(made.stderr.strip().splitlines() or ['?'])[-1]}")

        def start(port: int, folder: str) -> list[str]:
            # 5 000 channels take one advisory lock each; 17 processes a pool of connections each.
            return [str(programs / "postgres"), "-D", f"{folder}/data", "-p", str(port),
                    "-c", "listen_addresses=127.0.0.1", "-k", folder,
                    "-c", "max_locks_per_transaction=512",
                    "-c", "max_connections=300"]  # fmt: skip

        def is_up(port: int) -> bool:
            check = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            return subprocess.run(check, check=False).returncode == 0

        with running("postgres", start, folder, is_up, account) as (port, pid):
            version = subprocess.run(
                [str(programs / "postgres"), "--version"],
                capture_output=True,
                text=True,
                check=True,
            )
            name = version.stdout.split()[2]
            yield {"port": port, "pid": pid, "version": name, "user": user}


@contextmanager
def running(
    name: str,
    command: Callable[[int, str], list[str]],
    folder: str,
    is_up: Callable[[int], bool],
    account: str | None,
) -> Iterator[tuple[int, int]]:
    """The server on a free port, and its pid.  Another port when that one is taken meanwhile."""
    for _ in range(3):
        port = free_port()
        process = None
        try:
            with Path(folder, "log").open("w") as log, held():
                # A session of its own: Ctrl-C reaches only us, and we end it last.
                process = subprocess.Popen(
                    command(port, folder), cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, user=account, start_new_session=True,
                )  # fmt: skip
            if answers(process, is_up, port):
                yield port, process.pid
                return
        finally:
            if process is not None:
                end(process)
    words = Path(folder, "log").read_text(errors="replace").strip().splitlines()
    raise Missing(f"{name} did not start: {words[-1] if words else 'no word in its log'}")


def answers(process: subprocess.Popen[bytes], is_up: Callable[[int], bool], port: int) -> bool:
    """Waits until the server answers; False when it ended, or took too long."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if is_up(port):
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGINT, which both servers take as "at once, but cleanly"; SIGKILL if that does not do."""
    if process.poll() is None:
        process.send_signal(2)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of a server and of its children so far; 0 where there is no /proc."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(stat.parent.name) == pid:
            ticks += sum(map(int, fields[11:15]))  # its own, and of children that ended
        elif int(fields[1]) == pid:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def install_old_release(say: Callable[[str], None]) -> None:
    """Installs 0.4.0 beside the suite, once.  Raises ``Missing``."""
    if (OLD / "channels_lite").is_dir() and (OLD / "aiosqlitepool").is_dir():
        return
    say(f"installing {OLD_RELEASE[0]}")
    made = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(OLD),
         *OLD_RELEASE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        # pip's own words may hold paths and hosts, and a results file must not.
        raise Missing(f"pip cannot install {OLD_RELEASE[0]}; pip download it to see why")
