"""``manage.py channels_lite doctor``: what is in use, why, and whether messages arrive."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from channels.exceptions import ChannelFull
from django.core.checks import ERROR, INFO, WARNING, run_checks
from django.core.exceptions import ImproperlyConfigured

from channels_lite.checks import file_system_of
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.notify import NotifyChannelLayer
from channels_lite.management.trial import Trial, trial
from channels_lite.models import Event
from channels_lite.monitor import snapshot
from channels_lite.monitor.engine import try_out
from channels_lite.monitor.probe import DEADLINE
from channels_lite.relay.node import known_name
from channels_lite.store.connection import Source
from channels_lite.wake.hooks import hooks

__all__ = ["Finding", "examine"]

# Round trips of each kind; one takes 0.1 s if the layer polls.
COUNT = 20
POLLED_COUNT = 5
# The report itself covers what these checks report.
COVERED = ("channels_lite.W009", "channels_lite.W011")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.  If ``hint`` is set, something needs to be fixed, and it says how."""

    subject: str
    said: str
    hint: str = ""


def examine(
    alias: str, entry: Mapping[str, Any], layer: BaseSQLiteChannelLayer
) -> Iterator[Finding]:
    """Everything about one layer.  The last findings take a second: two processes talk."""
    yield Finding("layer", f"{alias!r}: {type(layer).__module__}.{type(layer).__name__}")
    yield from _checks()
    yield from _wake(layer)
    if layer.config.relay is not None:
        yield _relay(layer)
    is_readable = True
    for finding in _database(layer):
        is_readable = is_readable and not finding.hint
        yield finding
    if is_readable:
        try:
            yield from async_to_sync(_self_test)(entry, layer)
        except (ChannelFull, ImproperlyConfigured, StoreUnavailable, OSError) as error:
            yield Finding(
                "self-test", f"a message did not arrive: {error}", "see above, and the log"
            )


def _checks() -> Iterator[Finding]:
    for check in run_checks(include_deployment_checks=True):
        name = check.id or ""
        if name.startswith("channels_lite.") and name not in COVERED and not check.is_silenced():
            kind = {ERROR: "error", WARNING: "warning", INFO: "info"}[check.level]
            hint = str(check.hint) if check.level > INFO else ""
            yield Finding(f"check ({kind})", f"{name}: {check.msg}", hint)


def _wake(layer: BaseSQLiteChannelLayer) -> Iterator[Finding]:
    yield Finding("SQLite", f"{sqlite3.sqlite_version}")
    if hooks.reason:
        yield Finding(
            "extension", hooks.reason, "without a wheel, the installation needs a C compiler"
        )
    else:
        yield Finding("extension", "built and loaded")
        hint = (
            "rows of the ORM or of raw SQL wait for the fallback read" if hooks.hook_reason else ""
        )
        yield Finding("hooks", hooks.hook_reason or "tested on this build of Python", hint)


def _relay(layer: BaseSQLiteChannelLayer) -> Finding:
    tried = async_to_sync(try_out)(layer.config)
    node = known_name(Source(layer.database).path) or "no name yet"
    said = f"node {node}, {tried.engine or 'no engine'} at {tried.url}"
    if tried.engine:
        said += f", round trip {1000 * tried.seconds:.2f} ms"
    if tried.kept is not None:
        said += f", histories with {tried.kept[0]} messages of {tried.kept[1]} groups"
    return Finding("relay", f"{said}{': ' if tried.fault else ''}{tried.fault}",
                   "as it says" if tried.fault else "")  # fmt: skip


def _database(layer: BaseSQLiteChannelLayer) -> Iterator[Finding]:
    source = Source(layer.database)
    kind = file_system_of(source.path)
    yield Finding("database", f"{layer.database!r}: {source.path}{f', on {kind}' if kind else ''}")
    for path in (source.path, source.path.parent, source.sidecar):
        if os.path.lexists(path) and not os.access(path, os.W_OK):
            yield Finding("permissions", f"{path} cannot be written to", f"chown or chmod {path}")
    try:
        taken = snapshot.take(layer)
        with closing(snapshot.connect(source)) as connection:
            connection.execute("PRAGMA query_only = OFF")
            connection.execute("BEGIN IMMEDIATE")
    except (StoreUnavailable, ImproperlyConfigured) as error:
        yield Finding("database", str(error), "see the error")
        return
    except sqlite3.Error as error:
        said = f"cannot be written to for {snapshot.TIMEOUT:.0f} s: {error}"
        yield Finding("database", said, "find what holds its lock, or check its permissions")
        return
    for process in taken.processes:
        relay = process.relay if process.is_alive else None
        if relay is not None:
            said = f"{process.token}: {relay.groups} groups, {relay.sent} messages sent, "
            said += f"{relay.received} received, {relay.missed} missed by other nodes"
            hint = "as it says" if relay.reason else ""
            yield Finding("relay of", f"{said}{': ' if hint else ''}{relay.reason}", hint)
    yield Finding("journal", f"{taken.journal_mode}, {taken.log_size} bytes of log")
    dead = sum(not each.is_alive for each in taken.processes)
    yield Finding("processes", f"{len(taken.processes) - dead} alive, {dead} killed")
    yield Finding(
        "rows",
        f"{taken.waiting} waiting, {taken.expired} expired; {taken.memberships} memberships",
    )
    if taken.remembered:
        yield Finding("histories", f"{taken.remembered} messages")


async def _self_test(entry: Mapping[str, Any], layer: BaseSQLiteChannelLayer) -> list[Finding]:
    async with trial(entry) as running:
        return [each async for each in _kinds(running, layer)] + await _history(running.layer)


async def _history(layer: BaseSQLiteChannelLayer) -> list[Finding]:
    """Sends to a group that the first glob names, and joins it again after the position before."""
    globs = [each for each in layer.config.group_history or () if isinstance(each, str)]
    group = globs[0].replace("*", "channels-lite-doctor") if globs else ""
    if not layer.group_name_regex.fullmatch(group):
        return []
    channel = await layer.new_channel()
    try:
        joined = await layer.group_add(group, channel)
        assert joined is not None  # noqa: S101 - the glob matches
        await layer.group_send(group, {"type": "probe"})
        for _ in range(2):
            message = await asyncio.wait_for(layer.receive(channel), DEADLINE)
            if not await layer.group_add(group, channel, after=joined.position):
                hint = "other processes flush or trim it"
                return [Finding("history", f"{group}: its last position is gone", hint)]
    except asyncio.TimeoutError:
        return [Finding("history", f"{group}: no message came in {DEADLINE:.0f} s", "see the log")]
    finally:
        await layer.group_discard(group, channel)
    return [Finding("history", f"{group}: a message came, and again: {message['history_id']}")]


async def _kinds(running: Trial, layer: BaseSQLiteChannelLayer) -> AsyncIterator[Finding]:
    @sync_to_async
    def create(channel: str, message: dict[str, Any]) -> None:
        Event.objects.using(layer.database).create(
            channel_name=channel, data=layer.serialize(message)
        )

    for kind, channel, send in (
        ("to a process-local channel", running.own, None),
        ("to a plain channel", running.plain, None),
        ("by Event.objects.create()", running.plain, create),
    ):
        if send is create and layer.config.relay is not None:
            continue  # no process reads a row of a plain channel
        count = POLLED_COUNT if running.layer.polling_reason else COUNT
        seconds = await running.latency(channel, count, send)
        yield Finding("self-test", f"{1000 * seconds:.2f} ms to another process, {kind}")
    here: Any = running.layer
    if here.polling_reason:
        hint = "see the reason" if isinstance(layer, NotifyChannelLayer) else ""
        said = f"receivers poll every {here.look_interval} s: {here.polling_reason}"
        yield Finding("wake-up", said, hint)
    else:
        said = f"receivers sleep until they are woken; fallback read every {here.look_interval} s"
        yield Finding("wake-up", said)
