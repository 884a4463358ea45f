"""The parts of a channel's name: ``prefix.token!local`` is process-local, others are plain."""

from __future__ import annotations

__all__ = ["split", "token_of"]


def split(channel: str) -> tuple[str, str]:
    """The non-local part of a channel's name, with its "!", and what is behind that."""
    bang = channel.find("!") + 1
    return (channel[:bang], channel[bang:]) if bang else (channel, "")


def token_of(name: str) -> str:
    """The process's token in a process-local name: between the last "." and the "!".

    Whoever may write the table may write any name; a token without a "." leads out of no directory.
    """
    return name[name.rfind(".", 0, name.find("!")) + 1 : name.find("!")]
