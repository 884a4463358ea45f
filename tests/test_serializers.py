"""Formats, what they refuse, and the registry."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections import namedtuple
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace

import freezegun
import msgspec
import pytest
from django.http import QueryDict
from django.utils.translation import gettext_lazy
from hypothesis import assume, given
from hypothesis import strategies as st

from channels_lite.errors import InvalidMessage
from channels_lite.serializers import (
    BaseMessageSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    SerializersRegistry,
    UndecodableMessage,
    registry,
)
from tests.docs.pages import DOCS, blocks

FORMATS = ["json", "msgpack", "msgpack_types"]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def typed(value: object) -> object:
    """The value with the type of each part beside it: 1, 1.0 and True are equal in Python."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value), value


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
@given(message=st.dictionaries(text, values, max_size=5))
def test_messages_come_back_as_they_were(name, keys, message):
    """Any message of the specification's types comes back equal, types included."""
    serializer = registry.get_serializer(name, keys)
    assert typed(serializer.deserialize(serializer.serialize(message))) == typed(message)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", ["aGk=", "no base64!", "", None, ["aGk="]])
def test_no_key_is_taken_from_the_user(name, value):
    """A dict that looks as boxed bytes do comes back as the dict it was."""
    serializer = registry.get_serializer(name)
    message = {"inner": {"__bytes__": value}, "__bytes__": value}
    assert serializer.deserialize(serializer.serialize(message)) == message
    alone = {"__bytes__": value}
    assert serializer.deserialize(serializer.serialize(alone)) == alone


@pytest.mark.parametrize("name", FORMATS)
def test_tuples_come_back_as_lists(name):
    """A tuple is a list, at any depth."""
    serializer = registry.get_serializer(name)
    message = serializer.deserialize(serializer.serialize({"a": (1, (b"x", 2))}))
    assert message == {"a": [1, [b"x", 2]]}


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Label(str):
    __slots__ = ()


class Count(int):
    pass


class Share(float):
    pass


class Token(bytes):
    pass


class Price(Decimal):
    pass


@pytest.mark.parametrize("name", FORMATS)
def test_subclasses_come_back_as_their_base(name):
    """With what is stored in them, whatever their methods make of it; enumerations among them."""
    message = {
        "a": [Colour.RED, Level.HIGH, Label("x"), Count(7), Share(1.5), Token(b"x")],
        "b": QueryDict("q=1&q=2"),
        "c": [gettext_lazy("Yes"), {"d": gettext_lazy("No")}],
        Label("e"): bytearray(b"x"),
    }
    serializer = registry.get_serializer(name)
    assert typed(serializer.deserialize(serializer.serialize(message))) == typed(
        {
            "a": ["red", 3, "x", 7, 1.5, b"x"],
            "b": {"q": ["1", "2"]},
            "c": ["Yes", {"d": "No"}],
            "e": b"x",
        }
    )


@pytest.mark.parametrize("name", FORMATS)
def test_frozen_time_travels_as_real_time_does(name):
    """What a test that freezes time sends arrives as it would without; and so does a memoryview."""
    serializer = registry.get_serializer(name)
    moment = datetime(2031, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    real = {"a": [moment, moment.date(), timedelta(hours=1), Decimal("1.5")], "b": b"x"}
    with freezegun.freeze_time(moment):
        frozen = {
            "a": [datetime.now(timezone.utc), date.today(), timedelta(hours=1), Price("1.5")],
            "b": memoryview(b"x"),
        }
        arrived = serializer.deserialize(serializer.serialize(frozen))
    assert arrived == serializer.deserialize(serializer.serialize(real))


def test_serializer_of_the_configuration_page(monkeypatch):
    """It carries a message under the name that it is registered by, and refuses what is garbage."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    [block] = [
        block for block in blocks(DOCS / "configuration.md") if "register_serializer" in block.code
    ]
    exec(block.code, {})
    serializer = registry.get_serializer("compressed", ["secret"])
    assert serializer.deserialize(serializer.serialize({"a": [b"x", 1]})) == {"a": [b"x", 1]}
    with pytest.raises(UndecodableMessage, match="not compressed"):
        serializer.decode(b"garbage")


def test_whatever_decryption_raises_drops_the_message(monkeypatch):
    """A warning of a library that is an error here, say, as base64's from Python 3.15 on."""
    serializer = registry.get_serializer("msgpack", ["secret"])

    def decrypt(data):
        raise FutureWarning("of base64")

    monkeypatch.setattr(serializer, "crypter", SimpleNamespace(decrypt=decrypt))
    with pytest.raises(UndecodableMessage, match=r"FutureWarning.*of base64"):
        serializer.deserialize(b"garbage")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "value", [object(), 2**64, -(2**63) - 1, "\ud800", 1j], ids=["object", "64", "-64", "half", "j"]
)
def test_what_cannot_be_carried_is_refused(name, value):
    """A value outside of the specification raises InvalidMessage when it is sent."""
    with pytest.raises(InvalidMessage, match="cannot be encoded"):
        registry.get_serializer(name).serialize({"deep": [{"value": value}]})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_json_refuses_what_it_has_no_word_for(value):
    """Infinities and NaN are refused by JSON, which would make them null, and kept by msgpack."""
    with pytest.raises(InvalidMessage, match="use the format msgpack"):
        registry.get_serializer("json").serialize({"deep": [value]})
    serializer = registry.get_serializer("msgpack")
    [kept] = serializer.deserialize(serializer.serialize({"deep": [value]}))["deep"]
    assert repr(kept) == repr(value)


@pytest.mark.parametrize("name", FORMATS)
def test_endless_nesting_is_refused(name):
    """A message that holds itself is refused, and no RecursionError comes out."""
    message: dict[str, object] = {}
    message["self"] = message
    with pytest.raises(InvalidMessage):
        registry.get_serializer(name).serialize(message)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.binary(max_size=200))
def test_garbage_is_undecodable_or_a_message(name, data):
    """Whatever bytes a row holds, reading it gives a dict or raises UndecodableMessage."""
    try:
        message = registry.get_serializer(name).deserialize(data)
    except UndecodableMessage:
        return
    assert isinstance(message, dict)


def test_each_decoding_is_a_new_object():
    """Two members of a group share nothing."""
    serializer = registry.get_serializer("msgpack")
    data = serializer.serialize({"list": []})
    assert serializer.decode(data)["list"] is not serializer.decode(data)["list"]


def test_any_text_is_a_key():
    """Keys are str or bytes of any length, as in the Redis layers."""
    data = registry.get_serializer("msgpack", [b"x"]).serialize({"type": "x"})
    assert registry.get_serializer("json", ["other", "x"]).deserialize(data) == {"type": "x"}
    with pytest.raises(UndecodableMessage, match="not encrypted with any"):
        registry.get_serializer("msgpack", ["other"]).deserialize(data)


def test_registry_takes_formats_of_the_project():
    """A registered format is found by its name; an unknown name lists the known ones."""
    formats = SerializersRegistry()
    formats.register_serializer("mine", MsgPackSerializer)
    assert isinstance(formats.get_serializer("mine"), MsgPackSerializer)
    with pytest.raises(SerializerDoesNotExist, match="there are mine"):
        formats.get_serializer("theirs")


def test_registry_refuses_other_classes():
    """What is no serializer is refused when it is registered."""
    with pytest.raises(TypeError, match="must be a subclass of BaseMessageSerializer"):
        SerializersRegistry().register_serializer("mine", dict)  # type: ignore[arg-type]


def test_a_format_needs_as_bytes_only():
    """A subclass that gives as_bytes alone can write what every layer reads."""

    class Upper(BaseMessageSerializer):
        def as_bytes(self, message):
            return registry.get_serializer("json").as_bytes({"text": message["text"].upper()})

    serializer = Upper()
    assert serializer.deserialize(serializer.serialize({"text": "a"})) == {"text": "A"}


more_values = (
    st.uuids()
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.datetimes(timezones=st.just(timezone(timedelta(hours=-3, minutes=-30))))
    | st.dates()
    | st.times()
    | st.timedeltas()
)


@given(message=st.dictionaries(text, more_values | st.lists(more_values), max_size=5))
def test_types_come_back_as_they_were(message):
    """With msgpack_types UUID, Decimal and datetime types do; the other formats read them, too."""
    data = registry.get_serializer("msgpack_types").serialize(message)
    for name in FORMATS:
        assert typed(registry.get_serializer(name).deserialize(data)) == typed(message)


@dataclasses.dataclass
class Order:
    content: object
    _note: object


Pair = namedtuple("Pair", ["first", "second"])


class Kind(enum.Enum):
    TEXT = "text"
    BYTES = b"bytes"
    NUMBER = 7
    UUID = uuid.UUID(int=7)
    DATE = date(2031, 1, 2)
    TUPLE = (b"x", uuid.UUID(int=8))


keys = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.binary(max_size=20)
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.sampled_from(Kind),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
objects = st.recursive(
    keys,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(text | keys, inner, max_size=3)
        | st.sets(keys, max_size=3)
        | st.builds(Order, inner, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=10,
)


class RefusedKey(Exception):
    pass


def arrived(value, name, *, is_key=False):
    """The value that arrives, by the configuration page.  With types, as in `typed`."""
    if isinstance(value, enum.Enum):
        return arrived(value.value, name, is_key=is_key)
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        keys = [arrived(key, name, is_key=True) for key in value]
        if name == "json" and any(kind is not str for kind, _ in keys):
            raise RefusedKey
        assume(len(set(keys)) == len(keys))  # a UUID and its text may be one key
        return dict, list(zip(keys, (arrived(item, name) for item in value.values()), strict=True))
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [arrived(part, name, is_key=is_key) for part in value]
        return (tuple, tuple(parts)) if is_key else (list, parts)
    if isinstance(value, (uuid.UUID, Decimal, date)) and name != "msgpack_types":
        value = str(value)
    return type(value), value


def found(value):
    """The value that has arrived, with its types."""
    if isinstance(value, dict):
        return dict, [(found(key), found(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), type(value)(map(found, value))
    return type(value), value


@pytest.mark.parametrize("name", FORMATS)
@given(value=objects)
def test_anything_arrives_as_the_rule_says_or_is_refused(name, value):
    """Dataclasses, enumerations, sets and keys of any type, at any depth, in every format."""
    serializer = registry.get_serializer(name)
    try:
        expected = arrived(value, name)
    except RefusedKey:
        with pytest.raises(InvalidMessage, match=r"JSON has no key .*; use the format msgpack"):
            serializer.serialize({"value": value})
    else:
        assert found(serializer.deserialize(serializer.serialize({"value": value}))["value"]) == (
            expected
        )


@pytest.mark.parametrize("code", [*range(1, 7), 99])
def test_extension_that_is_none_is_undecodable(code):
    """A type of another program's, or one of ours with another content, is refused."""
    data = msgspec.msgpack.encode({"value": msgspec.msgpack.Ext(code, b"\xff nonsense")})
    for name in FORMATS:
        with pytest.raises(UndecodableMessage):
            registry.get_serializer(name).deserialize(data)
    data = msgspec.msgpack.encode({"value": msgspec.msgpack.Ext(code, b"9 nonsense")})
    with pytest.raises(UndecodableMessage):
        registry.get_serializer("msgpack").deserialize(data)
