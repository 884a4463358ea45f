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

# Round trips of bench, and the number of concurrent ones for the throughput.
COUNT = 1000
SENDERS = 50


class Command(BaseCommand):
    """Only ``doctor`` and ``bench`` send messages, on their own channels."""

    help = "Examine, monitor or measure the SQLite channel layers."
    # `doctor` reports the checks itself; the others must work even if checks fail.
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own form

    def add_arguments(self, parser: CommandParser) -> None:
        """One subcommand is required."""
        subcommands = parser.add_subparsers(dest="subcommand", required=True)

        def add(name: str, help: str) -> Any:  # noqa: A002 - argparse's name
            subcommand = subcommands.add_parser(name, help=help, description=help)
            subcommand.add_argument("--layer", default="default", help="name in CHANNEL_LAYERS")
            subcommand.add_argument("--json", action="store_true", help="print JSON")
            return subcommand

        add(
            "doctor",
            "Show what is in use and why, and test whether messages arrive. "
            "Exits with status 1 if something needs to be fixed.",
        )
        add("status", "Show waiting messages and receiving processes.").add_argument(
            "--watch", type=_seconds, metavar="SECONDS", help="refresh until Ctrl-C"
        )
        bench = add("bench", "Measure latency and throughput between two processes.")
        bench.add_argument("--redis", metavar="URL", help="also measure channels_redis pub/sub")
        bench.add_argument(
            "--count", type=_count, default=COUNT, help=f"number of messages (default: {COUNT})"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs the subcommand.  An error is one line, and exit status 1."""
        layers = our_layers()
        alias = options["layer"]
        if alias in (misnamed := misnamed_layers()):
            raise CommandError(f"layer {alias!r}: {misnamed[alias]}")
        if alias not in layers:
            known = ", ".join(sorted(layers)) or "none"
            raise CommandError(
                f"CHANNEL_LAYERS has no channels_lite layer {alias!r}; its channels_lite layers: "
                f"{known}."
            )
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
                style = self.style.WARNING if finding.hint else str
                self.stdout.write(style(f"{finding.subject:>16}  {finding.said}"))
                if finding.hint:
                    self.stdout.write(f"{'':>16}  -> {finding.hint}")
        if options["json"]:
            self.stdout.write(json.dumps([dataclasses.asdict(each) for each in findings], indent=2))
        faults = sum(bool(finding.hint) for finding in findings)
        if faults:
            raise CommandError(f"{faults} to fix.")

    def _status(
        self,
        alias: str,
        entry: Mapping[str, Any],
        layer: BaseSQLiteChannelLayer,
        options: Mapping[str, Any],
    ) -> None:
        if options["json"] and options["watch"]:
            raise CommandError("--watch and --json cannot be used together.")
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
        snapshot.take(layer)  # raises if something is wrong, and creates no file
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
    """A type for argparse, whose errors show the name of this function."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return float(text)


def _count(text: str) -> int:
    """Another type for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


async def _measure(entry: Mapping[str, Any], count: int) -> dict[str, float]:
    """One-way milliseconds (median, one message after the other), and messages per second."""
    async with trial(entry) as running:
        await running.latency(running.own, max(1, count // 10))  # warm up
        latency = await running.latency(running.own, count)
        throughput = await running.throughput(10 * count, SENDERS)
    return {"one_way_ms": 1000 * latency, "messages_per_second": throughput}
