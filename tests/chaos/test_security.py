"""What another user of the machine cannot do.  docs/security.md."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest

NOBODY = 65534
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")
ATTEMPTS = """
import os, socket, sys
sidecar, token = sys.argv[1:]
def attempt(what):
    try:
        what()
    except PermissionError:
        return
    except OSError as error:
        print(error)
    else:
        print("done")
attempt(lambda: os.listdir(sidecar))
attempt(lambda: os.open(f"{sidecar}/{token}", os.O_WRONLY | os.O_NONBLOCK))
attempt(lambda: os.open(f"{sidecar}/{token}", os.O_RDONLY | os.O_NONBLOCK))
frames = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
attempt(lambda: frames.connect(f"{sidecar}/{token}.frames"))
attempt(lambda: os.unlink(f"{sidecar}/{token}"))
attempt(lambda: os.mkdir(f"{sidecar}/@mine"))
"""


@pytest.fixture
def folder(public_folder):
    return public_folder


def test_15_modes(start, folder):
    """The directory is its owner's, and so is the FIFO."""
    child = start()
    child.do("receive", channel="jobs")
    sidecar = folder / "default.sqlite3-wake"
    fifo = sidecar / child.do("describe")["prefix"]
    assert stat.S_IMODE(sidecar.stat().st_mode) == 0o700
    assert stat.S_IMODE((sidecar / "@jobs").stat().st_mode) == 0o700
    assert stat.S_IMODE(fifo.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.skipif(PYTHON is None, reason="needs a Python that everybody may run")
def test_15_other_user_reaches_nothing(start, folder):
    """It cannot list, write, read, connect, remove or make anything beside the database."""
    child = start()
    child.do("receive", channel="jobs")
    sidecar = folder / "default.sqlite3-wake"
    tried = subprocess.run(
        [PYTHON, "-I", "-c", ATTEMPTS, sidecar, child.do("describe")["prefix"]],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tried.returncode, tried.stdout, tried.stderr) == (0, "", "")
