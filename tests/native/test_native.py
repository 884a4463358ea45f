"""The C of the extension under what finds its faults.  Fault 49."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
SQLITE = ctypes.util.find_library("sqlite3")
STRICT = ["-std=gnu11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
needs_sqlite = pytest.mark.skipif(SQLITE is None, reason="needs SQLite as a shared library")


@pytest.fixture
def folder():
    """With a name that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="cl") as path:
        yield Path(path)


def run(*command, **how):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", ["hooks.c", "wake.c"])
def test_no_warning(source, folder):
    """Of the strict ones."""
    run("gcc", *STRICT, "-O2", "-c", CSRC / source, "-o", folder / "object.o")


@pytest.mark.parametrize("source", ["hooks.c", "wake.c"])
def test_static_analysis_finds_nothing(source, folder):
    """GCC's own."""
    run("gcc", *STRICT, "-O1", "-fanalyzer", "-c", CSRC / source, "-o", folder / "object.o")


@pytest.fixture
def arguments(folder):
    """What the driver takes: a library, a copy of it, and a folder to work in."""
    (folder / "work").mkdir()
    ctypes.CDLL(SQLITE)  # so that the system tells where it is
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    path = next(each for each in sorted(mapped) if Path(each).name.startswith("libsqlite3"))
    return path, shutil.copy(path, folder / "copy.so"), folder / "work"


@needs_sqlite
def test_49_address_and_undefined_sanitizers(folder, arguments):
    """Wrong names, wrong files, no memory, no reader, a second SQLite: no fault, and no leak."""
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    run("gcc", "-g", "-w", *sanitize, HERE / "driver.c", "-o", folder / "driver", "-ldl")
    run(folder / "driver", *arguments, timeout=100)


@needs_sqlite
@pytest.mark.chaos
@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
def test_49_valgrind(folder, arguments):
    """The same under memcheck."""
    run("gcc", "-g", "-w", HERE / "driver.c", "-o", folder / "driver", "-ldl")
    run(
        "valgrind", "-q", "--error-exitcode=9", "--leak-check=full",
        "--errors-for-leak-kinds=definite", f"--suppressions={HERE / 'valgrind.supp'}",
        folder / "driver", *arguments,
        timeout=600,
    )  # fmt: skip
