"""``manage.py channels_lite status``: a snapshot as tables."""

from __future__ import annotations

import time
from contextlib import suppress

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, OutputWrapper

from channels_lite.errors import StoreUnavailable
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.monitor import snapshot
from channels_lite.monitor.snapshot import Snapshot

try:
    from rich.console import Console, RenderableType
    from rich.console import Group as Together
    from rich.live import Live
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise CommandError(
        "status needs rich for its tables: pip install channels-lite[status], or use --json"
    ) from error

__all__ = ["draw", "show", "watch"]

# Columns where the output is not a terminal: enough for the longest names and the numbers.
WIDTH = 200


def show(alias: str, layer: BaseSQLiteChannelLayer, out: OutputWrapper) -> None:
    """Prints the tables once.  Raises what `snapshot.take` raises."""
    _console(out).print(draw(alias, snapshot.take(layer)))


def watch(alias: str, layer: BaseSQLiteChannelLayer, every: float, out: OutputWrapper) -> None:
    """Draws them every ``every`` seconds, until Ctrl-C.  Shows later errors, and retries."""
    before = snapshot.take(layer)
    with suppress(KeyboardInterrupt), Live(console=_console(out), screen=True) as live:
        live.update(draw(alias, before), refresh=True)
        while True:
            time.sleep(every)
            try:
                taken = snapshot.take(layer, before.stored)
            except (ImproperlyConfigured, StoreUnavailable) as error:
                live.update(Text(str(error)), refresh=True)
            else:
                live.update(draw(alias, taken, before), refresh=True)
                before = taken


def _console(out: OutputWrapper) -> Console:
    return Console(file=out, width=None if out.isatty() else WIDTH)  # type: ignore[arg-type]


def draw(alias: str, taken: Snapshot, before: Snapshot | None = None) -> RenderableType:
    """Totals, channels, groups and processes, with the rates of rows since ``before``."""
    totals = Table.grid(padding=(0, 2))
    stored = f"{taken.stored} stored so far"
    if before:
        stored += f", {_rate(taken.stored - before.stored, taken, before)} now"
    totals.add_row("layer", f"{alias}, in {taken.path}")
    alive = [process for process in taken.processes if process.is_alive]
    said = f"{len(alive)} alive, {sum(process.rate for process in alive):.0f} messages/s"
    totals.add_row("processes", said)
    totals.add_row("rows", f"{taken.waiting} waiting, {taken.expired} expired, {stored}")
    totals.add_row("groups", f"{taken.group_count}, {taken.memberships} memberships")
    if taken.is_engine_remembering:
        totals.add_row("histories", "in the relay's engine")
    elif taken.remembered:
        totals.add_row("histories", f"{taken.remembered} messages")
    totals.add_row(
        "file",
        f"{_bytes(taken.size)}, {_bytes(taken.free)} of it free; journal {taken.journal_mode}, "
        f"{_bytes(taken.log_size)}",
    )
    if taken.relay:
        totals.add_row("node", f"{taken.node or 'no name yet'}, relay {taken.relay}")
    channels = _table("channel", "wait", "oldest", *(("come", "go") if before else ()))
    waited = {channel.name: channel.waiting for channel in before.channels} if before else {}
    for channel in taken.channels:
        cells = [channel.name, str(channel.waiting), f"{channel.oldest:.1f} s"]
        if before:
            gone = waited.get(channel.name, 0) + channel.added - channel.waiting
            cells += [_rate(count, taken, before) for count in (channel.added, gone)]
        channels.add_row(*cells)
    groups = _table("group", "members")
    for group in taken.groups:
        groups.add_row(group.name, str(group.members))
    histories = _table("history of", "messages", "oldest", "newest")
    for history in taken.histories:
        ages = f"{history.oldest:.0f} s", f"{history.newest:.0f} s"
        histories.add_row(history.name, str(history.messages), *ages)
    processes = _table("process", "pid", "received", "now", "missed", "as of", "plain channels")
    for process in taken.processes:
        pid = (str(process.pid) if process.pid else "?") if process.is_alive else "killed"
        as_of = "" if process.age is None else f"{process.age:.0f} s ago"
        counts = str(process.received), f"{process.rate:.0f}/s", str(process.full), as_of
        processes.add_row(process.token, pid, *counts, ", ".join(process.channels))
    tables = [
        each for each in (processes, _relays(taken), channels, groups, histories) if each.row_count
    ]
    return Together(totals, *(Padding(each, (1, 0, 0, 0)) for each in tables))


def _relays(taken: Snapshot) -> Table:
    """Each process's report of its connection to the engine."""
    relays = _table("relay of", "engine", "round trip", "groups", "sent", "received", "missed")
    relays.add_column("away", overflow="fold")
    for process in taken.processes:
        relay = process.relay
        if relay is not None and process.is_alive:
            counts = (relay.groups, relay.sent, relay.received, relay.missed)
            round_trip = f"{1000 * relay.round_trip:.1f} ms"
            relays.add_row(process.token, relay.engine, round_trip, *map(str, counts), relay.reason)
    return relays


def _table(name: str, *numbers: str) -> Table:
    table = Table(name, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for number in numbers:
        table.add_column(number, justify="left" if number == "plain channels" else "right")
    return table


def _rate(count: int, taken: Snapshot, before: Snapshot) -> str:
    return f"{max(0, count) / (taken.at - before.at):.0f}/s"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
