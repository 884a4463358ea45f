"""The parts of a channel's name: ``prefix.token!local`` is process-local, others are plain."""

from __future__ import annotations

__all__ = ["FRAMES", "FULL", "REPORT", "fault_of", "mark_path", "split", "token_of"]

#: What lies in the sidecar directory beside a process's FIFO, which has its token for a name: the
#: socket for frames, the report, and the directory with the marks of its full channels.
FRAMES = ".frames"
REPORT = ".received"
FULL = ".full"


def fault_of(name: object, limit: int) -> str:
    """What is wrong with a name that is not valid; a valid one is shorter than ``limit``."""
    shown = repr(str(name)[:120])
    if not isinstance(name, str):
        return f"{shown} is a {type(name).__name__}"
    return f"{shown} has {len(name)} characters" if len(name) >= limit else f"{shown} is none"


def split(channel: str) -> tuple[str, str]:
    """The non-local part of a channel's name, with its "!", and what is behind that."""
    bang = channel.find("!") + 1
    return (channel[:bang], channel[bang:]) if bang else (channel, "")


def token_of(name: str) -> str:
    """The process's token in a process-local name: between the last "." and the "!".

    Whoever may write the table may write any name; a token without a "." leads out of no directory.
    """
    return name[name.rfind(".", 0, name.find("!")) + 1 : name.find("!")]


def mark_path(sidecar: str, token: str, channel: str) -> str:
    """The file that is there while ``channel``, of the process with this token, is full."""
    return f"{sidecar}/{token}{FULL}/{channel}"
