"""``manage.py channels_lite``: doctor, status and bench, for operators and deploy scripts."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels_lite import snapshot
from channels_lite.config import our_layers
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.management import doctor
from channels_lite.management.trial import layer_of, trial

__all__ = ["Command"]

# Round trips of bench, and how many are made at once for the throughput.
COUNT = 1000
SENDERS = 50


class Command(BaseCommand):
    """Only ``doctor`` and ``bench`` send messages, on channels of their own."""

    help = "Examine, watch or measure the SQLite channel layers."
    # `doctor` reports the checks itself, and the others must work on what they complain of.
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own form

    def add_arguments(self, parser: CommandParser) -> None:
        """One subcommand is needed."""
        subcommands = parser.add_subparsers(dest="subcommand", required=True)

        def add(name: str, help: str) -> Any:  # noqa: A002 - argparse's name
            subcommand = subcommands.add_parser(name, help=help, description=help)
            subcommand.add_argument("--layer", default="default", help="its name in CHANNEL_LAYERS")
            subcommand.add_argument("--json", action="store_true", help="for other programs")
            return subcommand

        add("doctor", "What is used and why, and whether a message comes through; 1: mend it.")
        add("status", "What waits where, and who receives.").add_argument(
            "--watch", type=float, metavar="SECONDS", help="again and again, until Ctrl-C"
        )
        bench = add("bench", "Latency and throughput between two processes, here.")
        bench.add_argument("--redis", metavar="URL", help="and beside it channels_redis pub/sub's")
        bench.add_argument("--count", type=int, default=COUNT, help=f"messages ({COUNT})")

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs it; what goes wrong is one line, and exit status 1."""
        layers = our_layers()
        alias = options["layer"]
        if alias not in layers:
            known = ", ".join(sorted(layers)) or "none of channels_lite"
            raise CommandError(f"no layer {alias!r} of channels_lite; CHANNEL_LAYERS has {known}.")
        entry = layers[alias]
        try:
            layer = layer_of(entry)
            assert isinstance(layer, BaseSQLiteChannelLayer)  # noqa: S101 - our_layers says so
            getattr(self, f"_{options['subcommand']}")(alias, entry, layer, options)
        except (ChannelFull, ImproperlyConfigured, StoreUnavailable, TimeoutError) as error:
            raise CommandError(f"layer {alias!r}: {error}") from error

    def _doctor(
        self,
        alias: str,
        entry: Mapping[str, Any],
        layer: BaseSQLiteChannelLayer,
        options: Mapping[str, Any],
    ) -> None:
        findings = []
        for finding in doctor.examine(alias, entry, layer):
            findings.append(finding)
            if not options["json"]:
                style = self.style.WARNING if finding.mend else str
                self.stdout.write(style(f"{finding.subject:>16}  {finding.said}"))
                if finding.mend:
                    self.stdout.write(f"{'':>16}  -> {finding.mend}")
        if options["json"]:
            self.stdout.write(json.dumps([dataclasses.asdict(each) for each in findings], indent=2))
        faults = sum(bool(finding.mend) for finding in findings)
        if faults:
            raise CommandError(f"{faults} to mend.")

    def _status(
        self,
        alias: str,
        entry: Mapping[str, Any],
        layer: BaseSQLiteChannelLayer,
        options: Mapping[str, Any],
    ) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(dataclasses.asdict(snapshot.take(layer)), indent=2))
            return
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.live import Live  # noqa: PLC0415

        from channels_lite.management.status import draw  # noqa: PLC0415

        console = Console(file=self.stdout)  # type: ignore[arg-type]
        if not options["watch"]:
            console.print(draw(alias, snapshot.take(layer)))
            return
        with suppress(KeyboardInterrupt), Live(console=console, screen=True) as live:
            before = snapshot.take(layer)
            live.update(draw(alias, before), refresh=True)
            while True:
                time.sleep(options["watch"])
                taken = snapshot.take(layer, before.stored)
                live.update(draw(alias, taken, before), refresh=True)
                before = taken

    def _bench(
        self,
        alias: str,
        entry: Mapping[str, Any],
        layer: BaseSQLiteChannelLayer,
        options: Mapping[str, Any],
    ) -> None:
        snapshot.take(layer)  # which says what is wrong, and makes no file
        entries = {alias: entry}
        if options["redis"]:
            entries["redis"] = {
                "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                "CONFIG": {"hosts": [options["redis"]]},
            }
        measured = {}
        for name, each in entries.items():
            try:
                measured[name] = async_to_sync(_measure)(each, max(1, options["count"]))
            except ImportError as error:
                raise CommandError(f"{name}: {error}; pip install channels-redis") from error
            except OSError as error:
                raise CommandError(f"{name}: {error}") from error
            if not options["json"]:
                latency, throughput = measured[name].values()
                self.stdout.write(
                    f"{name:>16}  {latency:.3f} ms one way, {throughput:.0f} messages/s"
                )
        if options["json"]:
            self.stdout.write(json.dumps(measured, indent=2))


async def _measure(entry: Mapping[str, Any], count: int) -> dict[str, float]:
    """Milliseconds one way (median, one message after the other); messages a second."""
    async with trial(entry) as running:
        await running.latency(running.own, max(1, count // 10))  # warm
        latency = await running.latency(running.own, count)
        throughput = await running.throughput(10 * count, SENDERS)
    return {"one_way_ms": 1000 * latency, "messages_per_second": throughput}
