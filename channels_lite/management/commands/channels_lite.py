"""``manage.py channels_lite``: doctor, status and bench, for operators and deploy scripts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels_lite.errors import StoreUnavailable
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.configured import misnamed_layers, our_layers
from channels_lite.management import doctor
from channels_lite.management.trial import layer_of, trial
from channels_lite.monitor import snapshot

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
            "--watch", type=_seconds, metavar="SECONDS", help="again and again, until Ctrl-C"
        )
        bench = add("bench", "Latency and throughput between two processes, here.")
        bench.add_argument("--redis", metavar="URL", help="and beside it channels_redis pub/sub's")
        bench.add_argument("--count", type=_count, default=COUNT, help=f"messages ({COUNT})")

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs it; what goes wrong is one line, and exit status 1."""
        layers = our_layers()
        alias = options["layer"]
        if alias in (misnamed := misnamed_layers()):
            raise CommandError(f"layer {alias!r}: {misnamed[alias]}")
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
        if options["json"] and options["watch"]:
            raise CommandError("--watch draws tables, and --json none: leave one of them out.")
        if options["json"]:
            self.stdout.write(json.dumps(dataclasses.asdict(snapshot.take(layer)), indent=2))
            return
        from channels_lite.management import status  # noqa: PLC0415 - it needs an extra

        if options["watch"]:
            status.watch(alias, layer, options["watch"], self.stdout)
        else:
            status.show(alias, layer, self.stdout)

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
            try:
                layer_of(entries["redis"])
            except ImportError as error:
                raise CommandError(f"redis: {error}; pip install channels-redis") from error
        measured = {}
        for name, each in entries.items():
            try:
                measured[name] = async_to_sync(_measure)(each, options["count"])
            except OSError as error:
                raise CommandError(f"{name}: {error}") from error
            if not options["json"]:
                latency, throughput = measured[name].values()
                self.stdout.write(
                    f"{name:>16}  {latency:.3f} ms one way, {throughput:.0f} messages/s"
                )
        if options["json"]:
            self.stdout.write(json.dumps(measured, indent=2))


def _seconds(text: str) -> float:
    """argparse's type of what it names."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return float(text)


def _count(text: str) -> int:
    """The same."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


async def _measure(entry: Mapping[str, Any], count: int) -> dict[str, float]:
    """Milliseconds one way (median, one message after the other); messages per second."""
    async with trial(entry) as running:
        await running.latency(running.own, max(1, count // 10))  # warm
        latency = await running.latency(running.own, count)
        throughput = await running.throughput(10 * count, SENDERS)
    return {"one_way_ms": 1000 * latency, "messages_per_second": throughput}
