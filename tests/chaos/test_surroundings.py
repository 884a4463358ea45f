"""The file system, the database file and its neighbours are not as they should be."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from contextlib import closing, suppress

import pytest

from tests.chaos.conftest import SCALE, wait_until

SOON = json.dumps({"polling_interval": 0.3})
LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def token(child):
    return child.do("describe")["prefix"]


def listen(child, channel, count):
    child.do("receive", channel=channel, count=count)


def sidecar(folder):
    return folder / "default.sqlite3-wake"


def test_10_sidecar_deleted(start, folder, ledger):
    """Messages come by the fallback look, one warning says so, and the directory is made anew."""
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    channel = receiver.do("new_channel")
    listen(receiver, channel, 40)
    ledger.send(sender, token(sender), channel, 10)
    shutil.rmtree(sidecar(folder))
    ledger.send(sender, token(sender), channel, 20)
    ledger.receive(receiver, count=30)
    wait_until((sidecar(folder) / token(receiver)).exists)
    ledger.send(sender, token(sender), channel, 10)
    ledger.receive(receiver, count=10)
    ledger.check()
    assert receiver.log.read_text().count("was deleted; creating it again") == 1


def test_10_plain_channels_are_linked_again(start, folder):
    """Also a receiver that goes on waiting for a plain channel is woken again."""
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    listen(receiver, "jobs", 1)
    shutil.rmtree(sidecar(folder))
    wait_until((sidecar(folder) / "@jobs" / token(receiver)).exists)
    sender.do("send", channel="jobs", message={"type": "job"})
    assert receiver.received()["received"] == {"type": "job"}


def test_12_name_replaced(start, folder, ledger):
    """A process whose own name leads elsewhere takes it back, and is woken by it again."""
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    channel = receiver.do("new_channel")
    listen(receiver, channel, 20)
    name = sidecar(folder) / token(receiver)
    name.unlink()
    name.write_bytes(b"precious")
    ledger.send(sender, token(sender), channel, 10)
    ledger.receive(receiver, count=10)
    wait_until(name.is_fifo)
    ledger.send(sender, token(sender), channel, 10)
    ledger.receive(receiver, count=10)
    ledger.check()


@needs_root
@pytest.mark.parametrize(
    ("fault", "hint"),
    [("a file", "remove it"), ("open to others", "chmod 700"), ("another user's", "as one user")],
)
def test_11_15_sidecar_refused(start, folder, ledger, fault, hint):
    """What is no directory of ours is not trusted: it polls, says why with a hint, and works."""
    if fault == "a file":
        sidecar(folder).write_text("")
    else:
        sidecar(folder).mkdir()
        sidecar(folder).chmod(0o700 if fault == "another user's" else 0o755)
        if fault == "another user's":
            os.chown(sidecar(folder), 65534, 65534)
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    listen(receiver, "jobs", 10)
    ledger.send(sender, token(sender), "jobs", 10)
    ledger.receive(receiver, count=10)
    ledger.check()
    said = receiver.log.read_text()
    assert said.count("the notify layer polls") == 1
    assert hint in said


def test_10_names_of_a_channel_deleted(start, folder):
    """Who waits for a plain channel is linked again."""
    receiver = start(TEST_CONFIG=SOON)
    listen(receiver, "jobs", 1)
    name = sidecar(folder) / "@jobs" / token(receiver)
    shutil.rmtree(name.parent)
    wait_until(name.exists)


@pytest.mark.parametrize("obstacle", ["a file", "a quota"])
def test_42_no_name_for_a_channel(start, folder, obstacle):
    """It polls, says so once, and messages come all the same."""
    receiver, sender = start(TEST_CONFIG=SOON), start()
    listen(receiver, "others", 1)
    if obstacle == "a file":
        (sidecar(folder) / "@jobs").touch()
    else:
        receiver.do("refuse_links")
    listen(receiver, "jobs", 1)
    for channel in ("jobs", "others"):
        sender.do("send", channel=channel, message={"to": channel})
        assert receiver.received()["received"] == {"to": channel}
    assert receiver.log.read_text().count("the notify layer polls") == 1


@needs_root
def test_15_sidecar_taken_away(start, public_folder):
    """A process whose directory becomes another user's polls, says so once, and ends in peace."""
    for path in (public_folder, public_folder / "default.sqlite3"):
        os.chown(path, 65534, 65534)
    receiver = start(TEST_CONFIG=SOON, TEST_FOLDER=str(public_folder))
    receiver.do("become", user=65534)
    listen(receiver, "jobs", 2)
    receiver.do("send", channel="jobs", message={"number": 0})
    assert receiver.received()["received"] == {"number": 0}
    os.chown(sidecar(public_folder), 1, 1)
    wait_until(lambda: "the notify layer polls" in receiver.log.read_text())
    receiver.do("send", channel="jobs", message={"number": 1})
    assert receiver.received()["received"] == {"number": 1}
    receiver.end()
    said = receiver.log.read_text()
    assert said.count("Permission denied") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("plant", ["file", "symlink", "socket", "device"])
def test_12_fifo_replaced(start, folder, ledger, plant, tmp_path):
    """What stands where a FIFO should be is never written to; messages come by the fallback."""
    if plant == "device" and os.geteuid() != 0:
        pytest.skip("needs root")
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    listen(receiver, "jobs", 10)
    name = sidecar(folder) / "@jobs" / token(receiver)
    name.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    listener = None
    if plant == "file":
        shutil.copy(victim, name)
    elif plant == "symlink":
        name.symlink_to(victim)
    elif plant == "device":
        os.mknod(name, 0o600 | 0o020000, os.makedev(1, 7))  # /dev/full: a write would fail
    else:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        directory = os.open(name.parent, os.O_RDONLY)  # the path is too long for an address
        listener.bind(f"/proc/self/fd/{directory}/{name.name}")
        os.close(directory)
        listener.setblocking(False)
    ledger.send(sender, token(sender), "jobs", 10)
    ledger.receive(receiver, count=10)
    ledger.check()
    assert victim.read_bytes() == b"precious"
    if plant == "file":
        assert name.read_bytes() == b"precious"
    if listener is not None:
        with pytest.raises(BlockingIOError):
            listener.recv(1)
        listener.close()


def fill(ledger, sender):
    """What room the log has left."""
    for _ in range(200):
        ledger.send(sender, token(sender), "jobs", 1)


@needs_root
@pytest.mark.parametrize("layer", LAYERS)
def test_16_disk_full(start, ledger, folder, layer):
    """send() raises and nothing is half written; with space again, everything goes on."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        shutil.copy(folder / "default.sqlite3", disk)
        receiver, sender = (start(layer, TEST_CONFIG=SOON, TEST_FOLDER=str(disk)) for _ in range(2))
        ledger.send(sender, token(sender), "jobs", 3)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(AssertionError, match=r"StoreUnavailable: .* nothing was written"):
            fill(ledger, sender)
        listen(receiver, "jobs", 400)
        filler.unlink()
        ledger.send(sender, token(sender), "jobs", 5)
        ledger.receive(receiver, count=len(ledger.sent[token(sender)]))
        ledger.check()
        receiver.end()
        sender.end()
        with closing(sqlite3.connect(disk / "default.sqlite3")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("layer", LAYERS)
def test_19_no_database(start, folder, layer, breaks_database):
    """A file that is something else is refused, with a hint; it is not touched."""
    (folder / "default.sqlite3").write_text("these are my notes\n" * 100)
    child = start(layer, TEST_CONFIG=SOON)
    with pytest.raises(AssertionError, match=r"ImproperlyConfigured: .* not a SQLite database"):
        child.do("send", channel="jobs", message={})
    assert (folder / "default.sqlite3").read_text().startswith("these are my notes")


@pytest.mark.parametrize("layer", LAYERS)
def test_20_database_replaced(start, folder, layer, empty_database):
    """Another file under its name is noticed, said once, and used from then on.

    By a process that receives, and by one that only sends.
    """
    receiver, sender = start(layer, TEST_CONFIG=SOON), start(layer, TEST_CONFIG=SOON)
    listen(receiver, "jobs", 2)
    sender.do("send", channel="jobs", message={"number": 0})
    assert receiver.received()["received"] == {"number": 0}
    (folder / "new").write_bytes(empty_database)
    for suffix in ("-wal", "-shm"):
        (folder / f"default.sqlite3{suffix}").unlink(missing_ok=True)
    (folder / "new").rename(folder / "default.sqlite3")
    numbers = itertools.count()

    def is_noticed():
        with suppress(AssertionError):  # until then SQLite may refuse it: nothing was written
            sender.do("send", channel=f"others{next(numbers)}", message={})
        logs = receiver.log.read_text(), sender.log.read_text()
        return all("was replaced while in use" in log for log in logs)

    wait_until(is_noticed)
    sender.do("send", channel="jobs", message={"number": 1})
    assert receiver.received()["received"] == {"number": 1}
    assert receiver.log.read_text().count("was replaced while in use") == 1


def test_18_corrupt_database(start, folder, breaks_database):
    """A damaged file surfaces as an error, once in the log of a receiver; nobody spins or dies."""
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    for number in range(300):
        sender.do("send", channel=f"jobs{number}", message={"text": "x" * 200})
    sender.end()
    receiver.end()
    path = folder / "default.sqlite3"
    whole = path.read_bytes()
    for seed in range(max(5, int(500 * SCALE))):
        damaged = bytearray(whole)
        for step in range(40):
            damaged[4096 + (seed * 7919 + step * 104_729) % (len(whole) - 4096)] ^= 0xFF
        path.write_bytes(damaged)
        for suffix in ("-wal", "-shm"):
            (folder / f"default.sqlite3{suffix}").unlink(missing_ok=True)
        victim = start(TEST_CONFIG=SOON)
        victim.do("count_looks")
        listen_or_fail(victim)
        before = victim.do("usage")["looks"]
        victim.begin("send_many", channel="jobs1", count=3)
        try:
            victim.finish()
        except AssertionError as error:
            assert "StoreUnavailable" in str(error) or "malformed" in str(error)  # noqa: PT017
        assert victim.do("usage")["looks"] - before < 50
        assert victim.log.read_text().count("reading messages failed") <= 2
        victim.kill()


def listen_or_fail(victim):
    victim.begin("receive", channel="jobs0", count=1)
    try:
        victim.finish()
    except AssertionError as error:
        assert "StoreUnavailable" in str(error) or "Improperly" in str(error)  # noqa: PT017


def test_23_long_reader(start, folder, ledger, empty_the_log):
    """A foreign read transaction keeps nobody from anything; the log is emptied after it."""
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    listen(receiver, "jobs", 300)
    with closing(sqlite3.connect(folder / "default.sqlite3", isolation_level=None)) as reader:
        reader.execute("BEGIN").fetchall()
        reader.execute("SELECT count(*) FROM channels_lite_event").fetchall()
        taken = ledger.send(sender, token(sender), "jobs", 300)
        ledger.receive(receiver, count=taken)
        ledger.check()
        reader.execute("ROLLBACK")
    empty_the_log(sender)


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST"])
def test_46_rollback_journal(start, ledger, mode):
    """With a rollback journal messages come all the same."""
    options = json.dumps({"init_command": f"PRAGMA journal_mode={mode}"})
    receiver, sender = (start(TEST_CONFIG=SOON, TEST_OPTIONS=options) for _ in range(2))
    listen(receiver, "jobs", 20)
    ledger.send(sender, token(sender), "jobs", 20)
    ledger.receive(receiver, count=20)
    ledger.check()


def test_50_orderly_end_with_receivers(start, folder):
    """A process whose coroutines wait ends at once when it is told to, and leaves no name."""
    for _ in range(max(3, int(1000 * SCALE / 10))):
        child = start()
        channel = child.do("new_channel")
        child.do("group_add", group="room", channel=channel)
        listen(child, channel, 1)
        child.end()
        assert not sidecar(folder).exists()


def test_50_sigterm(start, folder):
    """One that is ended by a signal leaves a name, which the next one removes."""
    child = start()
    listen(child, "jobs", 1)
    child.signal(signal.SIGTERM)
    child.kill()
    successor = start()
    listen(successor, "jobs", 1)
    mine = token(successor)
    wait_until(lambda: {path.name for path in (sidecar(folder) / "@jobs").iterdir()} == {mine})
