"""What the figures were taken on: no host name and no path, only what explains a figure."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe_machine", "package_versions"]

PACKAGES = [
    "channels-lite", "channels", "django", "asgiref", "msgspec", "aiosqlite", "cffi",
    "channels-redis", "redis", "hiredis", "channels-postgres", "psycopg", "uvicorn", "websockets",
]  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """Cores, CPU, kernel, Python, SQLite, and where the databases were."""
    return {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "cpu": cpu_model(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "temporary_files_on": file_system(tempfile.gettempdir()),
    }


def cpu_model() -> str:
    """As the kernel names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def file_system(folder: str) -> str:
    """The type, as "ext4" or "tmpfs": whether an fsync costs anything."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in mounts:
        _, mount, this, *_ = line.split()
        inside = Path(folder).resolve().is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, this
    return kind


def package_versions() -> dict[str, str]:
    """Of those that are installed; and the commit of the checkout, if it is one."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
        versions["commit"] = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return versions
