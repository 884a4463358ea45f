"""What is too large for a datagram, and is in a memory file that the datagram carries."""

from __future__ import annotations

import errno
import os
import resource
import socket
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from channels_lite.names import FRAMES
from channels_lite.wake import datagrams
from channels_lite.wake.datagrams import (
    IN_FILE,
    LARGEST,
    MAX_DATAGRAM,
    Frame,
    FrameReceiver,
    connect,
)

pytestmark = pytest.mark.skipif(LARGEST == MAX_DATAGRAM, reason="there are no memory files")

SMALL, LARGE = b"small", bytes(2 * MAX_DATAGRAM)


@pytest.fixture
def receiver(tmp_path):
    receiver = FrameReceiver(tmp_path, "token")
    yield receiver
    receiver.close()
    receiver.abandon()


@pytest.fixture
def peer(receiver, tmp_path):
    with closing(connect(str(tmp_path / f"token{FRAMES}"))) as peer:
        yield peer


def send(peer, number, data):
    peer.send([Frame("p.token!", "0", data, 0.0, 1.0, 0)], number)


def came(receiver):
    return [frame.data for frame in receiver.drain()]


def descriptors():
    return set(Path("/proc/self/fd").iterdir())


def test_files_come_between_datagrams_and_are_closed(receiver, peer):
    """In the order of sending."""
    before = descriptors()
    for number, data in enumerate((SMALL, LARGE, LARGE, SMALL), start=1):
        send(peer, number, data)
    assert descriptors() == before
    assert came(receiver) == [SMALL, LARGE, LARGE, SMALL]
    assert descriptors() == before


def test_empty_datagram_hides_nothing_behind_it(receiver, peer):
    """A stranger's.  A row must not overtake the frames before it, so `drain` leaves none."""
    peer._socket.send(b"")
    send(peer, 2, SMALL)
    assert came(receiver) == [SMALL]


@pytest.mark.parametrize("recipients", ["0", "0," * MAX_DATAGRAM], ids=["few", "many"])
@pytest.mark.parametrize("sizes", [[1, 2], [2, 1, 2], [2]], ids=str)
def test_file_has_one_frame_or_several(receiver, peer, sizes, recipients):
    """As they were, whatever is large."""
    frames = [
        Frame("p.token!", recipients, bytes([size]) * size * MAX_DATAGRAM, 1.0, 2.0, 3, 4, True)
        for size in sizes
    ]
    peer.send(frames, 1)
    assert receiver.drain() == frames


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_child_keeps_no_file():
    """Another thread may have just written one, or be about to read one."""
    descriptor = datagrams._write_file(b"x")
    if not (pid := os.fork()):
        try:
            os.fstat(descriptor)
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(descriptor)


def test_process_of_an_earlier_version_gets_no_files(receiver, tmp_path):
    """It would drop them, so what is large becomes a row."""
    path = tmp_path / f"token{FRAMES}"
    path.chmod(0o755)
    with closing(connect(str(path))) as peer:
        assert peer.largest == MAX_DATAGRAM


def test_unread_files_are_limited(receiver, peer):
    """A process that stands still does not hold a sender's messages in memory without an end."""
    peer.largest = 2 * len(LARGE)
    send(peer, 1, LARGE)
    send(peer, 2, LARGE)
    with pytest.raises(OSError, match="unread") as caught:
        send(peer, 3, LARGE)
    assert caught.value.errno == errno.ENOBUFS
    send(peer, 3, SMALL)
    assert came(receiver) == [LARGE, LARGE, SMALL]
    send(peer, 4, LARGE)
    assert came(receiver) == [LARGE]


@pytest.mark.parametrize("size", [1, 100, 160, 500, 670, 2000, 3750, 10_000])
def test_sender_knows_what_was_read(receiver, peer, size):
    """Not only that all was: a busy process has hardly ever read all, and is not behind."""
    sent = read = 0
    for unread in (0, 3, 6, 1, 4, 0) * 3:
        while sent < read + max(unread, 1):
            sent += 1
            send(peer, sent, bytes(size))
        while sent - read > unread:
            read += len(receiver.drain(1))
        assert peer.read_up_to(sent) == read


@pytest.mark.parametrize("kind", ["pipe", "file", "none"])
@pytest.mark.parametrize("datagram", [b"", IN_FILE, b"\x90", IN_FILE + b"\x90"])
def test_other_descriptors_are_closed(receiver, peer, tmp_path, kind, datagram, caplog):
    """They are not read, which might block, and what comes after them arrives."""
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        pipe = os.pipe()
        carried = {"pipe": [pipe[0]], "file": [file.fileno(), pipe[1]], "none": []}[kind]
        before = descriptors()
        socket.send_fds(peer._socket, [datagram], carried)
        send(peer, 2, SMALL)
        found = came(receiver) or came(receiver)  # nothing at all looks like the end
        assert found == [SMALL]
        assert descriptors() == before
        for each in pipe:
            os.close(each)
    is_nothing = kind == "none" and not datagram.startswith(IN_FILE)
    assert ("dropped" in caplog.text) == (not is_nothing)


@pytest.mark.parametrize("count", [0, 2])
def test_file_belongs_to_one_frame(receiver, peer, count, caplog):
    """What says otherwise is dropped, and the file is closed."""
    frames = [Frame("p.token!", "0", b"", 0.0, 1.0, 0)] * count
    descriptor = datagrams._write_file(LARGE)
    before = descriptors()
    socket.send_fds(peer._socket, [IN_FILE + msgspec.msgpack.encode(frames)], [descriptor])
    assert came(receiver) == []
    assert descriptors() == before
    assert "dropped" in caplog.text
    os.close(descriptor)


def test_process_without_free_descriptors_says_what_it_drops(receiver, peer, caplog):
    """The kernel has nowhere to put the file; later messages arrive."""
    send(peer, 1, LARGE)
    send(peer, 2, SMALL)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        found = came(receiver)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == [SMALL]
    assert "no free file descriptor" in caplog.text


def test_sender_without_free_descriptors_leaves_it_to_a_row(peer):
    """By the error after which a message becomes one."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="memory file") as caught:
            send(peer, 1, LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.ENOBUFS
