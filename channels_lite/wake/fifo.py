"""The sidecar directory: where this process can be reached.

Beside the database ``x.sqlite3`` is the directory ``x.sqlite3-wake/``, mode 0700.  It contains one
FIFO for each process that uses the database, named after the process's token.  ``@channel/token``
is a second name (a hard link) for each plain channel that the process waits on.  Senders need no
list of processes, because the name tells where to write.  ``.@channel`` is the FIFO that all
processes on a plain channel share (see `channels_lite.wake.queues`).  Beside the FIFO,
``token.received`` has the number of messages that the process has received, for operators;
``token.full/`` has an empty file for each full channel of the process; ``.upkeep`` tells which
process did the upkeep last, and when; ``.clock`` has the origin of the processes' clock (see
`channels_lite.clock`), for the table that has it may be emptied.

A name without a reader (``ENXIO``) belongs to a dead process.  The upkeep removes it, with the rows
of that process in the tables.  So the name must not exist before its reader: the FIFO is created
under a dot-name, opened, and renamed.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from channels_lite.names import FRAMES, FULL, REPORT, mark_path

__all__ = ["Fifo", "RelayReport", "Report", "SidecarRefused", "is_stale", "report_of"]

UPKEEP = ".upkeep"
CLOCK = ".clock"
QUEUE = ".@"
# How often to retry to create a file in a directory that others remove when it is empty.
TRIES = 100
# Bytes read at once; a Linux pipe holds as many.
DRAIN = 65536
# Seconds after which a dot-name is stale: the process that created it was killed.
MAKING = 60.0


class RelayReport(msgspec.Struct, array_like=True, frozen=True):
    """A process's figures of its connection to the engine of a relay."""

    #: The engine's name and version; why it is unavailable, or "" if it is available.
    engine: str = ""
    reason: str = ""
    #: Seconds of one round trip.
    round_trip: float = 0.0
    #: The number of groups that have members in the process.
    groups: int = 0
    #: Messages sent to other nodes, received from them, and missed by them.
    sent: int = 0
    received: int = 0
    missed: int = 0


class Report(msgspec.Struct, array_like=True):
    """The figures of a process, for operators."""

    #: Messages received since the start, and recently per second.
    received: int = 0
    rate: float = 0.0
    #: Messages that found a channel full.
    full: int = 0
    #: When the next report is due, by ``time.monotonic()``, which all processes share.
    until: float = 0.0
    #: When this report was made, by the same clock; 0: there is none.
    at: float = 0.0
    #: None if there is no relay.
    relay: RelayReport | None = None


class SidecarRefused(OSError):
    """The sidecar directory cannot be trusted."""


class Fifo:
    """This process's FIFO.  Raises ``OSError`` if the file system has no FIFOs."""

    def __init__(self, sidecar: Path, token: str) -> None:
        self._sidecar = sidecar
        self._path = sidecar / token
        self._report = self._path.with_suffix(REPORT)
        self._marks = self._path.with_suffix(FULL)
        self._token = token
        self._channels: set[str] = set()
        self._open()

    def _open(self) -> None:
        making = self._sidecar / f".{self._token}"
        flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        for tries in range(TRIES):
            try:
                _make_directory(self._sidecar)
                os.mkfifo(making, 0o600)
                break
            except FileNotFoundError:
                # The last process to leave has just removed the directory.
                if tries == TRIES - 1:
                    raise
        # It is not empty now, so no process removes it any more.
        with ExitStack() as undoing:
            undoing.callback(_remove, making)
            self.fd = os.open(making, os.O_RDONLY | flags)
            undoing.callback(os.close, self.fd)
            # Our own writer: without a writer, the end of file would make it readable forever.
            self._writer = os.open(making, os.O_WRONLY | flags)
            undoing.callback(os.close, self._writer)
            making.rename(self._path)
            undoing.pop_all()

    def drain(self) -> frozenset[int]:
        """Reads it empty.  Call it before each look, or a wake-up between the two is lost.

        Returns the signs in it (see ``csrc/wakeup.h``), and also 0 if it was full: other signs may
        have found no room.
        """
        signs = frozenset[int]()
        while True:
            try:
                found = os.read(self.fd, DRAIN)
            except BlockingIOError:
                return signs
            signs |= frozenset(found)
            if len(found) < DRAIN:
                return signs
            signs |= {0}

    def link(self, channel: str) -> None:
        """Makes senders of plain channel ``channel`` reach this process."""
        if channel in self._channels:
            return
        self._link(channel)
        self._channels.add(channel)

    def _link(self, channel: str) -> None:
        name = self._sidecar / f"@{channel}" / self._token
        for tries in range(TRIES):
            try:
                with suppress(FileExistsError):
                    name.parent.mkdir(mode=0o700)
                with suppress(FileExistsError):
                    os.link(self._path, name)
                return
            except FileNotFoundError:
                # Another process has just removed the empty directory; or our own name is gone.
                if tries == TRIES - 1 or not self.is_in_place():
                    raise

    def keep(self, channels: set[str]) -> None:
        """Unlinks all other plain channels, and links deleted ones again."""
        for channel in self._channels & channels:
            if not (self._sidecar / f"@{channel}" / self._token).exists():
                self._link(channel)
        for channel in self._channels - channels:
            self._channels.discard(channel)
            directory = self._sidecar / f"@{channel}"
            _remove(directory / self._token)
            _remove_channel(directory)

    def is_in_place(self) -> bool:
        """Whether the name still leads here: it may have been deleted or replaced."""
        try:
            there, here = self._path.lstat(), os.fstat(self.fd)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def report(self, report: Report) -> None:
        """Writes it beside the FIFO."""
        _write(self._report, msgspec.json.encode(report))

    def mark(self, channel: str) -> None:
        """Creates the mark of a full channel.  Keeps any other file in its place."""
        path = self._mark_path(channel)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            os.close(os.open(path, flags, 0o600))
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700)
            os.close(os.open(path, flags, 0o600))

    def unmark(self, channel: str) -> None:
        """Removes the mark, and with the last one the directory."""
        path = self._mark_path(channel)
        _remove(path)
        _remove_directory(path.parent)

    def keep_marks(self, channels: set[str]) -> None:
        """Creates deleted marks of these channels again, and removes all other files."""
        try:
            found = {path.name for path in self._marks.iterdir()}
        except FileNotFoundError:
            found = set()
        except NotADirectoryError:
            _remove(self._marks)
            found = set()
        for channel in channels - found:
            self.mark(channel)
        for channel in found - channels:
            with suppress(IsADirectoryError, PermissionError):  # a directory of another program
                _remove(self._marks / channel)
        if found and not channels:
            _remove_directory(self._marks)

    def _mark_path(self, channel: str) -> Path:
        return Path(mark_path(str(self._sidecar), self._token, channel))

    def takes_turn(self, every: float) -> bool:
        """Takes a turn at the upkeep, if no living process did in the last ``every`` seconds.

        A file with a time and a token decides, and not the order of the living processes: the first
        one may no longer receive, and would then do no upkeep.
        """
        mark = self._sidecar / UPKEEP
        with suppress(OSError, ValueError):  # no turn was taken, or another program wrote the file
            last = self._sidecar / _read(mark).decode()
            # By the system clock, which may be set, in either direction.
            is_recent = abs(time.time() - mark.lstat().st_mtime) < every
            if is_recent and last.is_fifo() and not is_stale(last):
                return False
        _write(mark, self._token.encode())
        return True

    def origin(self, boot_id: str) -> float | None:
        """When the ticks of this boot began, by the clock of processes here; None if unknown."""
        with suppress(OSError, ValueError):  # nobody has, or somebody else wrote it
            name, began_at = msgspec.json.decode(
                _read(self._sidecar / CLOCK), type=tuple[str, float]
            )
            return began_at if name == boot_id else None
        return None

    def keep_origin(self, boot_id: str, began_at: float) -> None:
        """Tells other processes."""
        _write(self._sidecar / CLOCK, msgspec.json.encode((boot_id, began_at)))

    def stale(self) -> set[str]:
        """The tokens of processes that have died without removing their names."""
        # Listed as paths, here and below, it would be a tenth of an idle process's calls.
        with os.scandir(self._sidecar) as entries:
            return {each.name for each in entries if each.name[0] != "." and is_stale(each)}

    def remove_stale(self, tokens: Collection[str]) -> None:
        """Removes their names, and files that belong to a FIFO that is gone."""
        with os.scandir(self._sidecar) as entries:
            names = {each.name: each for each in entries}
        for name, each in names.items():
            with suppress(OSError):  # just deleted, or not one of our names
                if name.startswith("@"):
                    for token in tokens:
                        _remove(self._sidecar / name / token)
                    _remove_channel(self._sidecar / name)
                elif self._is_orphan(name, names.keys(), tokens):
                    _remove_with_content(self._sidecar / name)
                elif _is_unfinished(each):
                    _remove(self._sidecar / name)
        for token in tokens:
            _remove(self._sidecar / token)

    def _is_orphan(self, name: str, names: Collection[str], tokens: Collection[str]) -> bool:
        """Whether a file belongs to a FIFO that is gone."""
        if not name.endswith((FRAMES, REPORT, FULL)):
            return False
        # These are created after their FIFO, and removed before it.
        fifo = name.strip(".").rpartition(".")[0]
        return fifo in tokens or (fifo not in names and not (self._sidecar / fifo).exists())

    def close(self) -> None:
        """Removes the names, and the directory if no other process uses it.

        `abandon` closes the descriptors.
        """
        # The directory may have been given to another user, who then has to clean up.
        with suppress(OSError):
            self.keep(set())
            _remove(self._report)
            _remove_with_content(self._marks)
            if self.is_in_place():
                _remove(self._path)
            left = {path.name for path in self._sidecar.iterdir()}
            for name in left if left <= {UPKEEP, CLOCK} else ():
                _remove(self._sidecar / name)
            _remove_directory(self._sidecar)

    def abandon(self) -> None:
        """Closes only the descriptors: in a forked child, the names belong to the parent."""
        os.close(self.fd)
        os.close(self._writer)


def _is_unfinished(found: os.DirEntry[str]) -> bool:
    """Whether the process that was creating it was killed."""
    name = found.name
    if not name.startswith(".") or name.startswith(QUEUE) or name == CLOCK:
        return False
    return found.stat().st_mtime < time.time() - MAKING


def is_stale(path: os.PathLike[str]) -> bool:
    """Whether it is a FIFO without a reader."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.ENXIO and Path(path).is_fifo()
    return False


def report_of(fifo: Path) -> Report:
    """The last report of its process; an empty one if there is none."""
    try:
        return msgspec.json.decode(_read(fifo.with_suffix(REPORT)), type=Report)
    except (OSError, ValueError):  # msgspec's, if it is just being written
        return Report()


def _write(path: Path, content: bytes) -> None:
    """Writes a file that no message depends on.  Leaves a planted link or FIFO alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with suppress(OSError):
        fd = os.open(path, flags, 0o600)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(fd, 1000)
    finally:
        os.close(fd)


def _make_directory(sidecar: Path) -> None:
    with suppress(FileExistsError):
        sidecar.mkdir(mode=0o700)
    found = sidecar.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise SidecarRefused(f"{sidecar} is not a directory; remove it")
    if found.st_uid != os.geteuid():
        raise SidecarRefused(
            f"{sidecar} belongs to user {found.st_uid}, and this process is user {os.geteuid()}; "
            "run all processes as one user"
        )
    if found.st_mode & 0o077:
        raise SidecarRefused(f"{sidecar} is open to other users; chmod 700 {sidecar}")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_with_content(path: Path) -> None:
    """Removes a file, or a directory of files."""
    if path.is_dir() and not path.is_symlink():
        for each in list(path.iterdir()):
            _remove(each)
        _remove_directory(path)
    else:
        _remove(path)


def _remove_channel(directory: Path) -> None:
    """Removes the directory of a plain channel, and its queue, if no process waits on it."""
    _remove_directory(directory)
    if not directory.exists():
        _remove(directory.with_name(f".{directory.name}"))


def _remove_directory(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
            raise
