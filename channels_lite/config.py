"""The ``CONFIG`` of a layer, checked once, at its construction.

Every key is taken by all three layers, so that ``BACKEND`` alone chooses between them.
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


def _is_keys(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(key, (str, bytes)) for key in value)


_SECONDS = (_is_number, "a number of seconds above 0")
_COUNT = (_is_count, "a whole number above 0")
_TEXT = (lambda value: isinstance(value, str), "a string")
_FLAG = (lambda value: isinstance(value, bool), "True or False")
_CAPACITIES = (_is_capacities, "a dict from glob or compiled pattern to a whole number above 0")
_OPTIONS = (lambda value: isinstance(value, Mapping), "a dict")
_KEYS = (_is_keys, "a list of strings or bytes")


def _key(default: Any, rule: tuple[Callable[[Any], bool], str]) -> Any:
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What ``CHANNEL_LAYERS[alias]["CONFIG"]`` may hold, with the defaults."""

    #: Alias in ``DATABASES`` of the database that holds the messages.
    database: str = _key(DEFAULT_DB_ALIAS, _TEXT)
    #: Seconds after which an unread message is dropped.
    expiry: float = _key(60, _SECONDS)
    #: Messages that may wait on a channel before ``send`` raises ``ChannelFull``.  Left out: 100 on
    #: a plain channel; on a process-local one as many as are 16 MiB.
    capacity: int | None = _key(None, _COUNT)
    #: Capacities by glob or compiled pattern of the channel's name; the first match counts.
    channel_capacity: Mapping[str | re.Pattern[str], int] | None = _key(None, _CAPACITIES)
    #: Seconds after its last ``group_add`` for which a channel stays in a group.
    group_expiry: float = _key(86400, _SECONDS)
    #: Seconds between two looks.  Left out: 0.1 where the layer polls, and 5 for the fallback
    #: look of the notify layer, which is woken otherwise.
    polling_interval: float | None = _key(None, _SECONDS)
    #: Seconds without a message after which the layer looks ten times less often.
    polling_idle_timeout: float = _key(1800, _SECONDS)
    #: Whether receivers delete what has expired.
    auto_trim: bool = _key(True, _FLAG)
    #: Whether capacities hold at all.
    enforce_capacity: bool = _key(True, _FLAG)
    #: Name in ``channels_lite.serializers.registry``.
    serializer_format: str = _key("msgpack", _TEXT)
    #: Fernet keys of any form; the first encrypts, each one decrypts.
    symmetric_encryption_keys: list[str | bytes] | None = _key(None, _KEYS)
    #: Connections, and threads, of the aio layer at most.
    pool_size: int = _key(10, _COUNT)
    #: URL of a NATS or Redis through which nodes, processes with a database each, hear each other:
    #: ``nats://host:port,host:port`` or ``redis://host:port/0``.  Left out: one machine.
    relay: str | None = _key(None, _TEXT)
    #: ``prefix`` of all names there ("channels_lite"), ``replicas`` of what NATS keeps, and options
    #: of nats-py's ``connect()`` or redis-py's ``from_url()``.
    relay_options: Mapping[str, Any] | None = _key(None, _OPTIONS)

    @classmethod
    def of(cls, layer: str, values: Mapping[str, Any]) -> Config:
        """Checks ``values``, the CONFIG of ``layer`` (its class's name for the messages).

        Raises ``ImproperlyConfigured`` that names the key and the mend.
        """
        known = {item.name: item for item in fields(cls)}
        for name, value in values.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                mend = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}."
                raise ImproperlyConfigured(f"{layer}: unknown CONFIG key {name!r}; {mend}")
            is_valid, what = known[name].metadata["rule"]
            is_default = value is None and known[name].default is None
            if not is_default and not is_valid(value):
                raise ImproperlyConfigured(
                    f"{layer}: CONFIG[{name!r}] is {value!r}, but must be {what}."
                )
        config = cls(**values)
        config._check_database(layer)
        return config

    def _check_database(self, layer: str) -> None:
        try:
            connection = connections[self.database]
        except ConnectionDoesNotExist:
            raise ImproperlyConfigured(
                f"{layer}: CONFIG['database'] is {self.database!r}, which DATABASES does not have; "
                f"it has {', '.join(sorted(connections))}."
            ) from None
        if connection.vendor != "sqlite":
            raise ImproperlyConfigured(
                f"{layer}: database {self.database!r} is {connection.vendor}, but must be SQLite: "
                "add an alias with the engine django.db.backends.sqlite3 for the channels, and "
                "name it in CONFIG['database']."
            )
