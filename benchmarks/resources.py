"""What a process has used so far, as /proc says; zeros where there is none."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["Used", "resident_mib", "syscalls_of", "used"]

PROC = Path("/proc")


class Used(NamedTuple):
    """By all threads of some processes; to be subtracted from a later one."""

    cpu_seconds: float
    switches: int
    written_bytes: int

    def since(self, before: Used) -> Used:
        """The difference."""
        return Used(*(now - then for now, then in zip(self, before, strict=True)))


def used(*pids: int) -> Used:
    """Of these processes and their children; CPU in nanoseconds (schedstat), not ticks."""
    family = [*pids, *(child for pid in pids for child in children(pid))]
    cpu = switches = written = 0
    for pid in family:
        for task in (PROC / str(pid) / "task").glob("*"):
            try:
                cpu += int((task / "schedstat").read_text().split()[0])
                for line in (task / "status").read_text().splitlines():
                    if "ctxt_switches" in line:
                        switches += int(line.split()[1])
            except OSError:
                continue  # the thread has ended
        try:
            for line in (PROC / str(pid) / "io").read_text().splitlines():
                if line.startswith("write_bytes"):
                    written += int(line.split()[1])
        except OSError:
            continue  # another user's
    return Used(cpu / 1e9, switches, written)


def children(pid: int) -> list[int]:
    """PostgreSQL's connections are processes."""
    found = []
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def resident_mib(pid: int) -> float:
    """Memory that is in RAM."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


class syscalls_of:  # noqa: N801 - a context, read as a phrase
    """Counts the system calls of processes while it is entered, by strace; ``count`` is None
    without one.  It slows them down manifold, so nothing else is measured meanwhile.
    """

    def __init__(self, *pids: int) -> None:
        self.count: int | None = None
        self._pids = pids

    def __enter__(self) -> syscalls_of:
        self._report = tempfile.NamedTemporaryFile("r")
        self._strace = None
        if shutil.which("strace"):
            targets = [part for pid in self._pids for part in ("-p", str(pid))]
            self._strace = subprocess.Popen(
                ["strace", "-c", "-f", "-o", self._report.name, *targets],
                stderr=subprocess.PIPE,
                text=True,
            )
            assert self._strace.stderr is not None
            for _ in self._pids:  # "strace: Process 1 attached", for each
                self._strace.stderr.readline()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._strace is not None:
            self._strace.send_signal(signal.SIGINT)
            self._strace.communicate()
            # The last line: % time, seconds, usecs/call, calls, [errors,] "total".
            lines = self._report.read().splitlines()
            if lines and lines[-1].endswith("total"):
                self.count = int(lines[-1].split()[3])
        self._report.close()
