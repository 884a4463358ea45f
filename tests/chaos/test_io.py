"""The kernel fails the writes and flushes of the database, by turns each one that there is."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import contextmanager
from itertools import count, product

import pytest

from tests.chaos.conftest import SCALE, wait_until

LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]
SOON = json.dumps({"polling_interval": 0.1})
#: Each commit is flushed, so that flushing can fail.
FLUSHED = json.dumps({"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"})
#: As SQLite may have been built.
WRITES, FLUSHES = "pwrite64,write", "fdatasync,fsync"
ONCE, FOR_EVER = "", "+"
#: Between the calls that fail: at a small scale not each one does.
STEP = 1 if SCALE >= 1 else 4


def cannot_trace():
    """Why faults cannot be injected; "" if they can."""
    if shutil.which("strace") is None:
        return "strace is not there"
    tried = subprocess.run(["strace", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.splitlines()[-1] if tried.returncode else ""


pytestmark = pytest.mark.skipif(cannot_trace() != "", reason=cannot_trace())


class Disk:
    """The database's, as one process finds it."""

    def __init__(self, folder):
        self._log = folder / "strace.log"
        files = [str(folder / f"default.sqlite3{each}") for each in ("", "-wal", "-journal")]
        self._command = ["strace", "-f", "-o", str(self._log), *(f"-P{each}" for each in files)]

    @contextmanager
    def failing(self, child, calls, when):
        """EIO for what ``child`` calls the Nth time, "N", or from then on, "N+"."""
        command = [*self._command, f"-etrace={calls}", f"-einject={calls}:error=EIO:when={when}"]
        with subprocess.Popen(
            [*command, f"-p{child.pid}"], stderr=subprocess.PIPE, text=True
        ) as strace:
            assert "attached" in strace.stderr.readline()
            try:
                yield
            finally:
                strace.terminate()

    def has_failed(self):
        return "INJECTED" in self._log.read_text()


@pytest.fixture(params=LAYERS)
def pair(request, start, ledger):
    """A receiver and a sender that have met."""
    options = {} if request.param.startswith("core") else {"TEST_OPTIONS": FLUSHED}
    receiver, sender = (start(request.param, TEST_CONFIG=SOON, **options) for _ in range(2))
    receiver.do("receive", channel="jobs", count=100_000)
    send(ledger, sender, 1)
    ledger.receive(receiver, count=1)
    return receiver, sender


def send(ledger, sender, count):
    """One by one; those that were refused are not entered, and their numbers used again."""
    token, taken = sender.do("describe")["prefix"], 0
    for _ in range(count):
        try:
            taken += ledger.send(sender, token, "jobs", 1)
        except AssertionError as error:
            assert "StoreUnavailable" in str(error), error  # noqa: PT017
    return taken


def test_17_sender(pair, folder, ledger):
    """What was refused never comes, what was taken does; when the disk is well all goes on."""
    receiver, sender = pair
    disk = Disk(folder)
    refused = 0
    for calls, often in product((WRITES, FLUSHES), (ONCE, FOR_EVER)):
        for number in count(1, STEP):
            with disk.failing(sender, calls, f"{number}{often}"):
                taken = send(ledger, sender, 3)
                sender.do("checkpoint")
            refused += 3 - taken
            assert send(ledger, sender, 1) == 1
            ledger.receive(receiver, count=taken + 1)
            ledger.check()
            if not disk.has_failed():
                assert number > 1
                break
    assert refused


def test_17_receiver(pair, folder, ledger):
    """What could not be claimed is claimed later, once."""
    receiver, sender = pair
    disk = Disk(folder)
    for calls, often in product((WRITES, FLUSHES), (ONCE, FOR_EVER)):
        for number in count(1, STEP):
            with disk.failing(receiver, calls, f"{number}{often}"):
                send(ledger, sender, 1)
                wait_until(lambda: disk.has_failed() or receiver.has_received())
            ledger.receive(receiver, count=1)
            ledger.check()
            if not disk.has_failed():
                assert number > 1
                break
