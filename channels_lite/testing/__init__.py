"""For the tests of a project: fresh layers for each test, and a record of what they sent.

``ChannelLayerMixin`` is for Django's test cases; ``channels_lite.testing.pytest`` has the same as
fixtures.  Both use ``fresh_layers``.  ``LiveServerMixin`` is for Channels' live server.

Each of our layers in ``CHANNEL_LAYERS`` gets its own migrated file.  So a send inside a
``TestCase`` goes out at once, although the transaction of the test is never committed.
"""

from __future__ import annotations

import inspect
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.test import SimpleTestCase, override_settings

from channels_lite.errors import InvalidMessage
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.configured import database_of, layer_databases, our_layers
from channels_lite.store.connection import Source
from channels_lite.wake.fifo import Fifo

if TYPE_CHECKING:
    _TestCase = SimpleTestCase
else:
    _TestCase = object

__all__ = ["ChannelLayerMixin", "LiveServerMixin", "Sent", "fresh_layers"]

Message = dict[str, Any]
Send = Callable[[str, Mapping[str, Any]], Awaitable[None]]


class _Recorded(tuple[str, Message]):
    """The name of the channel or group, and the message as its receivers get it."""

    #: The layer that sent it.
    layer: BaseSQLiteChannelLayer

    def has(self, fields: Mapping[str, Any]) -> bool:
        """Whether the message has these fields, compared as they arrive."""
        _, message = self
        return all(
            key in message and message[key] == self._as_it_arrives(value)
            for key, value in fields.items()
        )

    def _as_it_arrives(self, value: object) -> object:
        try:
            return _arrived(self.layer, {"value": value})["value"]
        except InvalidMessage:  # such as mock.ANY, which no message can contain
            return value


def _arrived(layer: BaseSQLiteChannelLayer, message: Mapping[str, Any]) -> Message:
    return layer.deserialize(layer.serialize(message))


class Sent:
    """What this process has sent to channels and groups since the test began."""

    def __init__(self) -> None:
        #: Name of the channel or group, and the message as its receivers get it, in order.
        self.messages: list[_Recorded] = []

    def assert_sent(self, channel_or_group: str, /, **fields: Any) -> Message:
        """Returns the first message sent there that has these fields; it may have others.

        A field may be given as it was sent, such as a tuple or a UUID, or as it arrives.

        Raises ``AssertionError``, which lists what was sent there, or else everything sent.
        """
        there = [recorded for recorded in self.messages if recorded[0] == channel_or_group]
        for recorded in there:
            if recorded.has(fields):
                return recorded[1]
        wanted = ", ".join(f"{key}={value!r}" for key, value in fields.items())
        found = [message for _, message in there]
        raise AssertionError(
            f"no message with {wanted or 'any fields'} was sent to {channel_or_group!r}, "
            + (f"but {found}" if found else f"of all messages: {self.messages}")
        )

    def assert_nothing_sent(self, channel_or_group: str | None = None) -> None:
        """Checks that nothing was sent to ``channel_or_group``, or by default to any.

        Raises ``AssertionError``, which lists what was sent.
        """
        found = [each for each in self.messages if channel_or_group in (None, each[0])]
        if found:
            raise AssertionError(f"expected no message, but {found}")


@contextmanager
def fresh_layers() -> Iterator[Sent]:
    """Replaces each of our layers in ``CHANNEL_LAYERS`` by a new one on an empty file.

    Raises ``ImproperlyConfigured`` if there is none.
    """
    ours = our_layers()
    if not ours:
        raise ImproperlyConfigured("CHANNEL_LAYERS has no layer of channels_lite to test")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="channels-lite-")))
        for alias in {database_of(entry) for entry in ours.values()}:
            path = folder / f"{alias}.sqlite3"
            path.write_bytes(_migrated(alias))
            stack.enter_context(_database(_name(alias), alias, path))
        entries = {name: _moved(entry) for name, entry in ours.items()}
        # Channels makes new layers when this setting changes.
        stack.enter_context(
            override_settings(CHANNEL_LAYERS={**settings.CHANNEL_LAYERS, **entries})
        )
        sent = Sent()
        for name in ours:
            layer = get_channel_layer(name)
            stack.callback(async_to_sync(layer.close))
            _record(layer, sent)
        yield sent


def _moved(entry: Mapping[str, Any]) -> dict[str, Any]:
    # Without a relay: the engine would hand group messages to the running site, too.
    config = {**entry.get("CONFIG", {}), "database": _name(database_of(entry)), "relay": None}
    return {**entry, "CONFIG": config}


def _name(alias: str) -> str:
    return f"{alias}_of_a_test"


@contextmanager
def _database(alias: str, original: str, path: Path) -> Iterator[None]:
    """The database file ``path`` under ``alias``, with the settings of ``original``.

    Django and pytest-django block databases that a test does not name, and a test cannot name this
    one.
    """
    guarded = BaseDatabaseWrapper.ensure_connection

    def ensure_connection(connection: BaseDatabaseWrapper) -> None:
        if connection.alias != alias:
            guarded(connection)
        elif connection.connection is None:
            with connection.wrap_database_errors:
                connection.connect()

    connections.settings[alias] = {**connections.settings[original], "NAME": str(path)}
    try:
        with mock.patch.object(BaseDatabaseWrapper, "ensure_connection", ensure_connection):
            yield
    finally:
        connections[alias].close()
        del connections[alias], connections.settings[alias]


@cache
def _migrated(original: str) -> bytes:
    """The content of a database with only our tables, made once, with Django's connection."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="channels-lite-"))
        path, alias = Path(folder, "migrated.sqlite3"), _name(original)
        stack.enter_context(_database(alias, original, path))
        # Independent of the project's routers, and of pytest's --nomigrations.
        stack.enter_context(override_settings(DATABASE_ROUTERS=[], MIGRATION_MODULES={}))
        executor = MigrationExecutor(connections[alias])
        executor.migrate(executor.loader.graph.leaf_nodes("channels_lite"))
        connections[alias].close()
        return path.read_bytes()


def _record(layer: BaseSQLiteChannelLayer, sent: Sent) -> None:
    """Records in ``sent`` what ``layer`` sends, after it is sent."""

    def recording(send: Send) -> Send:
        signature = inspect.signature(send)

        async def send_and_record(*args: Any, **kwargs: Any) -> None:
            await send(*args, **kwargs)
            name, message = signature.bind(*args, **kwargs).arguments.values()
            recorded = _Recorded((name, _arrived(layer, message)))
            recorded.layer = layer
            sent.messages.append(recorded)

        return send_and_record

    for method in ("send", "group_send"):
        setattr(layer, method, recording(getattr(layer, method)))


class ChannelLayerMixin(_TestCase):
    """For a Django test case: ``class RoomTests(ChannelLayerMixin, TestCase)``.

    A ``setUp`` of your own calls ``super().setUp()`` first.
    """

    #: The default layer of this test.
    channel_layer: BaseSQLiteChannelLayer
    #: What was sent in this test.
    sent: Sent

    def setUp(self) -> None:
        """Makes the layers."""
        super().setUp()
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.sent = stack.enter_context(fresh_layers())
        self.channel_layer = get_channel_layer()

    if not TYPE_CHECKING:  # a type checker would accept every name

        def __getattr__(self, name: str) -> object:
            found = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in ChannelLayerMixin.__annotations__:
                found += ": a setUp of your own must call super().setUp() first"
            raise AttributeError(found)

    def assert_sent(self, channel_or_group: str, /, **fields: Any) -> Message:
        """See ``Sent.assert_sent``."""
        return self.sent.assert_sent(channel_or_group, **fields)

    def assert_nothing_sent(self, channel_or_group: str | None = None) -> None:
        """See ``Sent.assert_nothing_sent``."""
        self.sent.assert_nothing_sent(channel_or_group)


class _OnTestDatabases:
    """Starts the server's process with the databases of the test, however Python starts it.

    A forked process has them.  A process started by "spawn", or by "forkserver", Linux's default
    from Python 3.14 on, reads the project's settings again, and Channels passes only ``default``.
    """

    def __init__(self, process: Callable[..., Any]) -> None:
        self._process = process

    def __call__(
        self,
        *args: Any,
        setup: Callable[[], object] = bool,  # Channels 4.1 passes none
        **kwargs: Any,
    ) -> Any:
        names = {alias: str(connections.settings[alias]["NAME"]) for alias in connections}
        return self._process(*args, setup=partial(_use_databases, names, setup), **kwargs)


def _use_databases(names: Mapping[str, str], setup: Callable[[], object]) -> None:
    setup()
    for alias, name in names.items():
        connections.settings[alias]["NAME"] = name


class LiveServerMixin(_TestCase):
    """For Channels' live server: ``class LiveTests(LiveServerMixin, ChannelsLiveServerTestCase)``.

    The server's process uses the test's databases, however Python starts it, and no files are left.
    Channels stops the server with a signal, so it cannot clean up: its FIFO and its socket stay.
    ``-wal`` and ``-shm`` also stay if Django deletes the database while a layer of this process has
    it open, because Django's connection must be the last one.
    """

    #: Channels' own class, such as ``DaphneProcess``.
    ProtocolServerProcess: Any

    @classmethod
    def setUpClass(cls) -> None:
        """Starts the server."""
        cls.ProtocolServerProcess = _OnTestDatabases(cls.ProtocolServerProcess)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        """Ends the server, then removes the files that it left."""
        super().tearDownClass()
        for name in our_layers():
            async_to_sync(get_channel_layer(name).close)()
        for alias in layer_databases():
            sidecar = Source(alias).sidecar
            if sidecar.is_dir():
                fifo = Fifo(sidecar, uuid.uuid4().hex)
                fifo.remove_stale(fifo.stale())
                fifo.close()  # and removes the directory with the last FIFO
                fifo.abandon()
