"""The envelopes that processes exchange through an engine: MessagePack, by msgspec.

They contain the data of messages as the layer has encoded and perhaps encrypted it.  Times are
remaining seconds, because the clocks of nodes differ.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import msgspec

__all__ = [
    "Answer",
    "Appended",
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
    """One message: its channel or group, its data, and its remaining seconds."""

    name: str
    data: bytes
    ttl: float


class Messages(msgspec.Struct, array_like=True, tag=0):
    """Messages to channels of one process, or to one group, oldest first."""

    node: str
    entries: list[Entry]


class Membership(msgspec.Struct, array_like=True, tag=1):
    """Asks a process to add one of its channels to a group, or, with ``expiry`` 0, remove it."""

    node: str
    group: str
    channel: str
    expiry: float
    #: In a group with a history: from where it gets messages, and whether it begins anew there.
    after: int | None = None
    is_anew: bool = False


class Answer(msgspec.Struct, array_like=True, tag=2):
    """The answer to `Membership` and `Copied`: "", or why it is not done, or not true."""

    error: str = ""


class Flushed(msgspec.Struct, array_like=True, tag=3):
    """Voids earlier messages.  ``id`` is that of the flush, ``token`` that of its process."""

    node: str
    id: str
    token: str


class Heard(msgspec.Struct, array_like=True, tag=6):
    """The answer to `Flushed`: a process has received it, and perhaps done it."""

    id: str
    token: str
    is_done: bool


class Hello(msgspec.Struct, array_like=True, tag=4):
    """A process of this node has connected."""

    node: str
    token: str


class Copied(msgspec.Struct, array_like=True, tag=5):
    """The answer to `Hello`: a process of this node, unless you see it beside your database."""

    node: str
    token: str


class Appended(msgspec.Struct, array_like=True, tag=7):
    """The history of the group of this subject has a new message."""


class Ask(msgspec.Struct, array_like=True):
    """A request or its answer, for an engine that has no requests."""

    #: Its first byte, with which no other envelope starts.
    MARK: ClassVar[bytes] = b"?"

    token: str
    number: int
    payload: bytes


Message = Messages | Membership | Answer | Flushed | Heard | Hello | Copied | Appended

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)

#: The maximum number of bytes that `encode` adds to an entry, and to a parcel.
OVERHEAD = 32


class Unreadable(ValueError):
    """An envelope of another version, or garbage."""


def encode(message: Message) -> bytes:
    """Encodes for `decode`."""
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
    """Encodes for `decode_ask`."""
    return _encoder.encode(ask)


def decode_ask(payload: bytes) -> Ask:
    """Raises `Unreadable`."""
    try:
        return _ask_decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from None


class Subjects:
    """Names of subjects.  Dots separate parts, and parts contain none."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def process(self, token: str) -> str:
        """The subject of a process."""
        return f"{self._prefix}.t.{token}"

    def group(self, group: str) -> str:
        """The subject of processes that have members in a group."""
        return f"{self._prefix}.g.{escape(group)}"

    def node(self, node: str) -> str:
        """The subject of the processes of one node."""
        return f"{self._prefix}.n.{node}"

    def everybody(self) -> str:
        """The subject of all processes."""
        return f"{self._prefix}.all"

    def group_of(self, subject: str) -> str:
        """The group of a subject; "" if it is not that of a group."""
        start = f"{self._prefix}.g."
        return unescape(subject[len(start) :]) if subject.startswith(start) else ""


def escape(name: str) -> str:
    """A name as one part of a subject.  Names may contain dots, but no "="."""
    return name.replace(".", "=")


def unescape(part: str) -> str:
    """The reverse."""
    return part.replace("=", ".")
