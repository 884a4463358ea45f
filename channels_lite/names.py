"""The parts of a channel's name: ``prefix.token!local`` is process-local, other names are plain."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["FRAMES", "FULL", "REPORT", "fault_of", "is_valid", "mark_path", "split", "token_of"]

#: Suffixes of the files beside a process's FIFO in the sidecar directory.  The FIFO is named after
#: the process's token.  They are the socket for frames, the report, and the directory with the
#: marks of its full channels.
FRAMES = ".frames"
REPORT = ".received"
FULL = ".full"


def fault_of(name: object, limit: int) -> str:
    """What is wrong with an invalid name.  A valid one is shorter than ``limit``."""
    shown = repr(str(name)[:120])
    if not isinstance(name, str):
        return f"{shown} is a {type(name).__name__}"
    return f"{shown} has {len(name)} characters" if len(name) >= limit else f"{shown} is not valid"


# The number of names that are remembered: most messages go to channels that were used before.
KNOWN = 4096


@lru_cache(KNOWN)
def is_valid(name: str, pattern: str, limit: int) -> bool:
    """Whether a name matches the pattern, and is shorter than ``limit``."""
    return len(name) < limit and re.fullmatch(pattern, name) is not None


@lru_cache(KNOWN)
def split(channel: str) -> tuple[str, str]:
    """The non-local part of a channel's name, including the "!", and the part after it."""
    bang = channel.find("!") + 1
    return (channel[:bang], channel[bang:]) if bang else (channel, "")


@lru_cache(KNOWN)
def token_of(name: str) -> str:
    """The process's token in a process-local name: between the last "." and the "!".

    A row in the table may have any name, but a token without a "." cannot leave the directory.
    """
    return name[name.rfind(".", 0, name.find("!")) + 1 : name.find("!")]


def mark_path(sidecar: str, token: str, channel: str) -> str:
    """The file that exists while ``channel``, of the process with this token, is full."""
    return f"{sidecar}/{token}{FULL}/{channel}"
