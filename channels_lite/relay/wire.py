"""What processes tell each other through an engine, as bytes: MessagePack, by msgspec.

The data of messages is in it as it left the layer, encrypted if the layer encrypts.  Times are
seconds that are left, for no two nodes agree about the time of day.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import msgspec

__all__ = [
    "Answer",
    "Ask",
    "Copied",
    "Entry",
    "Flushed",
    "Heard",
    "Hello",
    "Membership",
    "Messages",
    "Subjects",
    "Unreadable",
    "decode",
    "decode_ask",
    "encode",
    "encode_ask",
    "escape",
    "unescape",
]  # fmt: skip


class Entry(NamedTuple):
    """One message: its channel or group, its data, and the seconds it has to live."""

    name: str
    data: bytes
    ttl: float


class Messages(msgspec.Struct, array_like=True, tag=0):
    """To channels of one process, or to one group; the oldest first."""

    node: str
    entries: list[Entry]


class Membership(msgspec.Struct, array_like=True, tag=1):
    """Asks a process to let a channel of its into a group, or with ``expiry`` 0 out of it."""

    node: str
    group: str
    channel: str
    expiry: float


class Answer(msgspec.Struct, array_like=True, tag=2):
    """To that: it is done, or why not."""

    error: str = ""


class Flushed(msgspec.Struct, array_like=True, tag=3):
    """What was sent before is void; ``id`` names the flush, ``token`` the process that asks."""

    node: str
    id: str
    token: str


class Heard(msgspec.Struct, array_like=True, tag=6):
    """To that: a process has heard it, and has done it or not yet."""

    id: str
    token: str
    is_done: bool


class Hello(msgspec.Struct, array_like=True, tag=4):
    """A process of this node is there."""

    node: str
    token: str


class Copied(msgspec.Struct, array_like=True, tag=5):
    """To who has said that: there is another node of this name."""

    node: str


class Ask(msgspec.Struct, array_like=True):
    """Any of these that wants an answer, or is one, where the engine has no way for it."""

    #: What it begins with, which is the beginning of none of the others.
    MARK: ClassVar[bytes] = b"?"

    token: str
    number: int
    payload: bytes


Message = Messages | Membership | Answer | Flushed | Heard | Hello | Copied

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)

#: What `encode` adds to an entry at most, and to a parcel.
OVERHEAD = 32


class Unreadable(ValueError):
    """It is of another version, or somebody else has put it there."""


def encode(message: Message) -> bytes:
    """What `decode` takes."""
    return _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """Raises `Unreadable`."""
    try:
        message: Message = _decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unreadable(str(error)) from None
    return message


_ask_decoder = msgspec.msgpack.Decoder(Ask)


def encode_ask(ask: Ask) -> bytes:
    """What `decode_ask` takes."""
    return _encoder.encode(ask)


def decode_ask(payload: bytes) -> Ask:
    """Raises `Unreadable`."""
    try:
        return _ask_decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from None


class Subjects:
    """Names of what is published to; a dot between parts, and none within one."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def process(self, token: str) -> str:
        """Its channels."""
        return f"{self._prefix}.t.{token}"

    def group(self, group: str) -> str:
        """Processes that have members in it."""
        return f"{self._prefix}.g.{escape(group)}"

    def node(self, node: str) -> str:
        """Processes of one node."""
        return f"{self._prefix}.n.{node}"

    def everybody(self) -> str:
        """All processes."""
        return f"{self._prefix}.all"

    def group_of(self, subject: str) -> str:
        """The group whose subject it is, "" for any other."""
        start = f"{self._prefix}.g."
        return unescape(subject[len(start) :]) if subject.startswith(start) else ""


def escape(name: str) -> str:
    """A name of Channels as one part of a subject: it has dots, and no "="."""
    return name.replace(".", "=")


def unescape(part: str) -> str:
    """The reverse."""
    return part.replace("=", ".")
