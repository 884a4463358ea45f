"""The ``CONFIG`` of a layer, checked once, when the layer is made.

All three layers take every key, so that ``BACKEND`` alone chooses between them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.connection import ConnectionDoesNotExist

__all__ = ["Config"]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_capacities(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(pattern, (str, re.Pattern)) and _is_count(capacity)
        for pattern, capacity in value.items()
    )


def _is_history(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(pattern, (str, re.Pattern))
        and isinstance(limit, Mapping)
        and set(limit) == {"messages", "seconds"}
        and _is_count(limit["messages"])
        and _is_number(limit["seconds"])
        for pattern, limit in value.items()
    )


def _is_keys(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(key, (str, bytes)) for key in value)


_SECONDS = (_is_number, "a positive number of seconds")
_COUNT = (_is_count, "a positive integer")
_TEXT = (lambda value: isinstance(value, str), "a string")
_FLAG = (lambda value: isinstance(value, bool), "True or False")
_CAPACITIES = (_is_capacities, "a dict that maps globs or compiled patterns to positive integers")
_HISTORY = (
    _is_history,
    'a dict that maps globs or compiled patterns to {"messages": number, "seconds": number}, both '
    "positive",
)
_OPTIONS = (lambda value: isinstance(value, Mapping), "a dict")
_KEYS = (_is_keys, "a list of strings or bytes")


def _key(default: Any, rule: tuple[Callable[[Any], bool], str]) -> Any:
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The keys of ``CHANNEL_LAYERS[alias]["CONFIG"]``, with their defaults."""

    #: The alias in ``DATABASES`` of the database that holds the messages.
    database: str = _key(DEFAULT_DB_ALIAS, _TEXT)
    #: Seconds after which an unread message is dropped.
    expiry: float = _key(60, _SECONDS)
    #: The number of messages that may wait on a channel.  If the channel is full, ``send`` raises
    #: ``ChannelFull``.  If this is ``None``, a plain channel holds 100 messages, and a
    #: process-local channel holds 16 MiB of messages.
    capacity: int | None = _key(None, _COUNT)
    #: Capacities of single channels.  Each key is a glob or a compiled pattern for the channel's
    #: full name; the first match applies.
    channel_capacity: Mapping[str | re.Pattern[str], int] | None = _key(None, _CAPACITIES)
    #: Seconds after which a channel leaves a group, counted from its last ``group_add``.
    group_expiry: float = _key(86400, _SECONDS)
    #: The groups that keep a history.  Each key is a glob or a compiled pattern for the group's
    #: name; the first match applies.  Each value is ``{"messages": n, "seconds": s}``: a group
    #: keeps its last n messages for s seconds.
    group_history: Mapping[str | re.Pattern[str], Mapping[str, float]] | None = _key(None, _HISTORY)
    #: Seconds between two reads of the table.  If this is ``None``, a layer that polls reads every
    #: 0.1 s.  The notify layer reads when it is woken, and as a fallback every 5 s.
    polling_interval: float | None = _key(None, _SECONDS)
    #: Seconds without a message after which the layer polls ten times less often.  The notify
    #: layer's fallback is also less frequent then: every 50 s.
    polling_idle_timeout: float = _key(1800, _SECONDS)
    #: Whether receivers delete expired messages.
    auto_trim: bool = _key(True, _FLAG)
    #: Whether capacities are enforced.
    enforce_capacity: bool = _key(True, _FLAG)
    #: The name of a serializer in ``channels_lite.serializers.registry``.
    serializer_format: str = _key("msgpack", _TEXT)
    #: Keys for encryption with Fernet, of any text.  The first key encrypts; all keys decrypt.
    symmetric_encryption_keys: list[str | bytes] | None = _key(None, _KEYS)
    #: The maximum number of the aio layer's connections, each of which has a thread.
    pool_size: int = _key(10, _COUNT)
    #: The URL of a NATS or Redis server that connects several machines, each with its own database:
    #: ``nats://host:port,host:port`` or ``redis://host:port/0``.  ``None`` means one machine.
    relay: str | None = _key(None, _TEXT)
    #: ``prefix``, the start of all names in the engine ("channels_lite"); ``replicas``, the number
    #: of copies that NATS keeps; and options of nats-py's ``connect()`` or of redis-py's
    #: ``from_url()``.
    relay_options: Mapping[str, Any] | None = _key(None, _OPTIONS)

    @classmethod
    def of(cls, layer: str, values: Mapping[str, Any]) -> Config:
        """Checks ``values``, the CONFIG of ``layer`` (the name of its class, for error messages).

        Raises ``ImproperlyConfigured``, which names the key and the fix.
        """
        known = {item.name: item for item in fields(cls)}
        for name, value in values.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(known)}."
                raise ImproperlyConfigured(f"{layer}: unknown CONFIG key {name!r}; {hint}")
            is_valid, what = known[name].metadata["rule"]
            is_default = value is None and known[name].default is None
            if not is_default and not is_valid(value):
                raise ImproperlyConfigured(
                    f"{layer}: CONFIG[{name!r}] must be {what}, but is {value!r}."
                )
        config = cls(**values)
        config._check_database(layer)
        return config

    def _check_database(self, layer: str) -> None:
        try:
            connection = connections[self.database]
        except ConnectionDoesNotExist:
            raise ImproperlyConfigured(
                f"{layer}: CONFIG['database'] is {self.database!r}, which is not in DATABASES; "
                f"its aliases: {', '.join(sorted(connections))}."
            ) from None
        if connection.vendor != "sqlite":
            raise ImproperlyConfigured(
                f"{layer}: database {self.database!r} must be SQLite, but is {connection.vendor}; "
                "add a database with the engine django.db.backends.sqlite3 to DATABASES, and "
                "set CONFIG['database'] to its alias."
            )
