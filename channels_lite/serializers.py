"""ENCODE and DECODE: from a message to the bytes of its row, and back.

``registry`` holds the formats by name: "msgpack" (default), "msgpack_types" and "json".  Each reads
what the others wrote, so the format can be changed while messages wait.  Encryption works with
every format.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import Promise

from channels_lite.errors import InvalidMessage

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

__all__ = [
    "BaseMessageSerializer",
    "JSONSerializer",
    "MsgPackSerializer",
    "MsgPackTypesSerializer",
    "SerializerDoesNotExist",
    "SerializersRegistry",
    "UndecodableMessage",
    "registry",
]

# How JSON carries bytes, which the specification requires of every layer: an object with this one
# key, and base64 as its value.  A user's own object with only that key is wrapped with the other.
_BYTES = "__bytes__"
_OWN = "__dict__"


class SerializerDoesNotExist(KeyError):
    """No serializer of that name is registered."""


class UndecodableMessage(ValueError):
    """This layer cannot decode a message: it is garbage, or encrypted with another key."""


def _again(
    make: Callable[..., object], parts: Callable[[Any], tuple[object, ...]], value: object
) -> object:
    """An instance of the plain class, made from the parts of ``value``, which is of a subclass."""
    return make(*parts(value))


# An instance of a subclass arrives as the plain type, with the stored value, whatever its methods
# return: a QueryDict as lists.  msgspec itself does so for dict, list and tuple.
_PLAIN: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes(memoryview(value)),
    bytearray: lambda value: bytes(memoryview(value)),
    # The real classes: a test that freezes time replaces the names in their module.
    Decimal: Decimal,
    datetime: partial(_again, datetime.combine, lambda value: (value, value.timetz())),
    date: partial(_again, date.fromordinal, lambda value: (value.toordinal(),)),
    timedelta: partial(
        _again, timedelta, lambda value: (value.days, value.seconds, value.microseconds)
    ),
}


def _plain(value: object) -> object:
    """Converts what msgspec does not encode itself: subclasses, as SafeString, and lazy strings."""
    if isinstance(value, _Typed):
        return msgspec.msgpack.Ext(value.code, value.data)
    if isinstance(value, Promise):
        return str(value)
    for kind, as_plain in _PLAIN.items():
        if isinstance(value, kind):
            return as_plain(value)
    raise TypeError(
        f"a message cannot contain {value!r} of type {type(value).__name__}; "
        "it can contain dict, list, str, bytes, int, float, bool and None"
    )


# Our MessagePack extension types, by code: the type, its conversion to text, and back.  A datetime
# is also a date, so it comes first.
_TYPES: dict[int, tuple[type, Callable[[Any], str], Callable[[str], object]]] = {
    1: (UUID, str, UUID),
    2: (Decimal, str, Decimal),
    3: (datetime, datetime.isoformat, datetime.fromisoformat),
    4: (date, date.isoformat, date.fromisoformat),
    5: (time, time.isoformat, time.fromisoformat),
    6: (
        timedelta,
        lambda value: f"{value.days} {value.seconds} {value.microseconds}",
        lambda text: timedelta(*map(int, text.split())),
    ),
}

_BYTES_LIKE = (bytes, bytearray, memoryview)
# msgspec first converts dataclasses, enumerations and sets as its encoders do.  Then the format
# walks through the result.  So a message arrives alike in every format.
_without_types = partial(msgspec.to_builtins, builtin_types=_BYTES_LIKE, enc_hook=_plain)
_with_types = partial(
    msgspec.to_builtins,
    builtin_types=(*_BYTES_LIKE, *(kind for kind, _, _ in _TYPES.values())),
    enc_hook=_plain,
)


def _from_extension(code: int, data: memoryview) -> object:
    if code not in _TYPES:
        raise ValueError(f"it has the unknown extension type {code}")
    _, _, from_text = _TYPES[code]
    try:
        return from_text(str(data, "utf-8"))
    except (ArithmeticError, TypeError) as error:  # Decimal's, timedelta's
        raise ValueError(f"it has an invalid {_TYPES[code][0].__name__}: {error}") from None


_msgpack_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_msgpack_decoder = msgspec.msgpack.Decoder(ext_hook=_from_extension)
_json_encoder = msgspec.json.Encoder()
_json_decoder = msgspec.json.Decoder()


class BaseMessageSerializer:
    """A format.  Subclasses define ``as_bytes``, and may override ``from_bytes``."""

    def __init__(self, symmetric_encryption_keys: Sequence[str | bytes] | None = None) -> None:
        self.crypter = _crypter(symmetric_encryption_keys) if symmetric_encryption_keys else None

    def as_bytes(self, message: dict[str, Any]) -> bytes:
        """Encodes.  Raises ``TypeError``, ``ValueError`` or ``OverflowError``."""
        raise NotImplementedError

    def from_bytes(self, data: bytes) -> Any:
        """Decodes.  Every call returns a new object.  Raises ``ValueError``."""
        if data[:1] == b"{":  # no message in MessagePack starts with it: 0x7b is the number 123
            return _unbox(_json_decoder.decode(data))
        return _msgpack_decoder.decode(data)

    def decrypt(self, data: bytes) -> bytes:
        """Decrypts, once for all members of a group.

        Raises ``UndecodableMessage``.
        """
        if self.crypter is None:
            return data
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - an extra

        try:
            return self.crypter.decrypt(data)
        except InvalidToken:
            raise UndecodableMessage("it is not encrypted with any of the layer's keys") from None
        except Exception as error:  # noqa: BLE001 - as a warning of base64, if warnings are errors
            raise UndecodableMessage(f"it cannot be decrypted: {error!r}") from None

    def decode(self, data: bytes) -> dict[str, Any]:
        """Decodes the result of ``decrypt``.  Raises ``UndecodableMessage``."""
        try:
            message = self.from_bytes(data)
        except ValueError as error:  # includes msgspec's errors and UnicodeDecodeError
            raise UndecodableMessage(str(error)) from None
        except RecursionError:
            raise UndecodableMessage("it is nested too deeply") from None
        if not isinstance(message, dict):
            raise UndecodableMessage(f"it is a {type(message).__name__}, not a dict")
        return message

    def encode(self, message: dict[str, Any]) -> bytes:
        """The input of ``decode``.  Raises ``InvalidMessage`` if the format cannot encode it."""
        try:
            return self.as_bytes(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidMessage(f"the message cannot be encoded: {error}") from error

    def encrypt(self, data: bytes) -> bytes:
        """Encrypts ``data`` with the first key, if there is one, before it leaves the process."""
        return data if self.crypter is None else self.crypter.encrypt(data)

    def serialize(self, message: dict[str, Any]) -> bytes:
        """The bytes of a row.  Raises ``InvalidMessage`` as ``encode`` does."""
        return self.encrypt(self.encode(message))

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """The message of a row.  Raises ``UndecodableMessage``."""
        return self.decode(self.decrypt(data))


class MsgPackSerializer(BaseMessageSerializer):
    """MessagePack, with msgspec: small, fast, and keeps every type of the specification."""

    def as_bytes(self, message: dict[str, Any]) -> bytes:
        """One MessagePack map."""
        return _msgpack_encoder.encode(message)


class MsgPackTypesSerializer(MsgPackSerializer):
    """MessagePack that keeps UUID, Decimal and the types of ``datetime``.

    In the other formats they become text.  This format costs a walk through each message.
    """

    def as_bytes(self, message: dict[str, Any]) -> bytes:
        """One MessagePack map, with extension types 1 to 6."""
        return super().as_bytes(_to_extensions(_with_types(message)))


class _Typed:
    """A value that becomes an extension.  Unlike msgspec's own class, it can be a key of a dict."""

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code = code
        self.data = data


def _to_extensions(value: Any) -> Any:
    if isinstance(value, dict):
        return {_to_extensions(key): _to_extensions(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):  # a tuple may be a key
        return type(value)(map(_to_extensions, value))
    for code, (kind, to_text, _) in _TYPES.items():
        if isinstance(value, kind):
            return _Typed(code, to_text(value).encode())
    return value


class JSONSerializer(BaseMessageSerializer):
    """JSON, for other programs to read.  Bytes become ``{"__bytes__": "<base64>"}``."""

    def as_bytes(self, message: dict[str, Any]) -> bytes:
        """One JSON object, in UTF-8."""
        return _json_encoder.encode(_box(_without_types(message)))


def _box(value: Any) -> Any:
    if isinstance(value, _BYTES_LIKE):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        boxed = {_json_key(key): _box(item) for key, item in value.items()}
        return {_OWN: boxed} if len(boxed) == 1 and (_BYTES in boxed or _OWN in boxed) else boxed
    if isinstance(value, (list, tuple)):
        return [_box(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise OverflowError(f"{value} has more than 64 bits")
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"JSON has no {value}; use the format msgpack")
    return value


def _json_key(key: object) -> str:
    text = key if isinstance(key, str) else _without_types(key)  # a UUID of an enumeration
    if isinstance(text, str):
        return text
    raise TypeError(f"JSON has no key {key!r}; use the format msgpack")


def _unbox(value: Any) -> Any:
    if isinstance(value, list):
        return [_unbox(item) for item in value]
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get(_BYTES), str):
            return base64.b64decode(value[_BYTES])
        if len(value) == 1 and isinstance(value.get(_OWN), dict):
            value = value[_OWN]
        return {key: _unbox(item) for key, item in value.items()}
    return value


def _crypter(keys: Sequence[str | bytes]) -> MultiFernet:
    """Fernet with all keys.  A key may be any text, as in the Redis layers: it is hashed first."""
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImproperlyConfigured(
            "CONFIG['symmetric_encryption_keys'] needs the package cryptography: "
            "pip install channels-lite[encryption]"
        ) from None

    def fernet(key: str | bytes) -> Fernet:
        secret = key.encode() if isinstance(key, str) else key
        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(secret).digest()))

    return MultiFernet([fernet(key) for key in keys])


class SerializersRegistry:
    """Formats by name, as in ``CONFIG["serializer_format"]``."""

    def __init__(self) -> None:
        self._classes: dict[str, type[BaseMessageSerializer]] = {}

    def register_serializer(
        self,
        format: str,  # noqa: A002 - 0.4.0's name
        serializer_class: type[BaseMessageSerializer],
    ) -> None:
        """Adds or replaces a format.  Raises ``TypeError`` for any other class."""
        if not issubclass(serializer_class, BaseMessageSerializer):
            raise TypeError(f"{serializer_class!r} must be a subclass of BaseMessageSerializer")
        self._classes[format] = serializer_class

    def get_serializer(
        self,
        format: str,  # noqa: A002 - 0.4.0's name
        symmetric_encryption_keys: Sequence[str | bytes] | None = None,
    ) -> BaseMessageSerializer:
        """A serializer of that format.  Raises ``SerializerDoesNotExist``."""
        try:
            serializer_class = self._classes[format]
        except KeyError:
            raise SerializerDoesNotExist(
                f"no serializer {format!r}; there are {', '.join(sorted(self._classes))}"
            ) from None
        return serializer_class(symmetric_encryption_keys)


registry = SerializersRegistry()
registry.register_serializer("json", JSONSerializer)
registry.register_serializer("msgpack", MsgPackSerializer)
registry.register_serializer("msgpack_types", MsgPackTypesSerializer)
