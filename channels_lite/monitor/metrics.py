"""Metrics for Prometheus, with prometheus-client (``pip install channels-lite[metrics]``).

Call ``install()`` once, in an ``AppConfig.ready()``.  Every second, a thread copies the counts of
the process's layers into counters of prometheus-client.  With several workers, prometheus-client's
multi-process mode (``PROMETHEUS_MULTIPROC_DIR``) adds them up.  `DatabaseCollector` reads the table
at each scrape; its values are the same in every process.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from channels_lite import process
from channels_lite.delivery.stats import Stats
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.configured import our_layers
from channels_lite.monitor import snapshot

__all__ = ["DatabaseCollector", "install", "publish", "view"]

logger = logging.getLogger(__name__)

# Seconds between two copies by the thread.
EVERY = 1.0

COUNTERS = {
    "sent": Counter("channels_lite_sent", "Messages that send() accepted", ["layer"]),
    "group_sent": Counter(
        "channels_lite_group_sent", "Messages that group_send() accepted", ["layer"]
    ),
    "received": Counter("channels_lite_received", "Messages that receive() returned", ["layer"]),
    "expired": Counter("channels_lite_expired", "Messages that expired unread", ["layer"]),
    "full": Counter("channels_lite_full", "Messages that found a channel full", ["layer"]),
    "undecodable": Counter(
        "channels_lite_undecodable", "Messages dropped as undecodable", ["layer"]
    ),
    "wakes": Counter("channels_lite_wakes", "Wake-ups of receivers", ["layer"]),
    "looks": Counter("channels_lite_looks", "Reads of the table", ["layer"]),
    "found_by_clock": Counter(
        "channels_lite_found_by_clock", "Timed reads that found rows without a wake-up", ["layer"]
    ),
    "relayed": Counter("channels_lite_relayed", "Messages sent to other nodes", ["layer"]),
    "relay_received": Counter(
        "channels_lite_relay_received", "Messages received from other nodes", ["layer"]
    ),
    "relay_missed": Counter(
        "channels_lite_relay_missed", "Messages that other nodes missed", ["layer"]
    ),
    "appended": Counter(
        "channels_lite_history_appended", "Messages to groups with a history", ["layer"]
    ),
    "replayed": Counter(
        "channels_lite_history_replayed", "Messages to members that were behind", ["layer"]
    ),
    "trimmed": Counter(
        "channels_lite_history_trimmed", "Messages deleted from histories", ["layer"]
    ),
    "gaps": Counter("channels_lite_history_gaps", "Members told that messages are gone", ["layer"]),
    "failed_looks": Counter("channels_lite_failed_looks", "Reads that failed", ["layer"]),
}
# One value for each process; with several, prometheus-client takes the worst.
RELAY_UP = Gauge(
    "channels_lite_relay_up",
    "1 while the engine of the relay answers",
    ["layer"],
    multiprocess_mode="livemin",
)
RELAY_ROUND_TRIP = Gauge(
    "channels_lite_relay_round_trip_seconds",
    "Seconds of the last round trip to the engine of the relay",
    ["layer"],
    multiprocess_mode="livemax",
)
LATENCY = Histogram(
    "channels_lite_latency_seconds",
    "Time from send() to receive(), if both layers have the same expiry",
    ["layer"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
# Fields of a snapshot.
GAUGES = [
    ("waiting", "waiting", "Waiting rows"),
    ("memberships", "memberships", "Channels in groups"),
    ("remembered", "history_messages", "Messages in histories"),
    ("processes", "processes", "Living processes that use a layer"),
    ("size", "database_bytes", "Size of the database"),
    ("log_size", "log_bytes", "Size of the database's log"),
]


class DatabaseCollector(Collector):
    """Waiting rows, memberships, processes that use a layer, and sizes of the files."""

    def describe(self) -> list[GaugeMetricFamily]:
        """Returns nothing, so that registering does not read the database."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called at each scrape.  Leaves out, and logs, a database that cannot be read."""
        gauges = {
            name: GaugeMetricFamily(f"channels_lite_{metric}", what, labels=["layer"])
            for name, metric, what in GAUGES
        }
        for alias in our_layers():
            try:
                taken = snapshot.take(channel_layers[alias])
            except (StoreUnavailable, ImproperlyConfigured) as error:
                logger.error("no metrics of layer %r: %s", alias, error)
                continue
            for name, gauge in gauges.items():
                value = getattr(taken, name)
                if name == "remembered" and taken.is_engine_remembering:
                    continue  # it would be the same for all nodes
                if name == "processes":
                    value = sum(each.is_alive for each in value)
                gauge.add_metric([alias], value)
        yield from gauges.values()


#: By layer, the last published counts, and the `Stats` that they come from.
_published: dict[str, tuple[Stats, dict[str, int]]] = {}
_lock = threading.Lock()
_is_installed = False


def publish() -> None:
    """Publishes what was counted since the last call.  `install` calls it every second."""
    with _lock:
        for alias in our_layers():
            # Channels makes a layer at its first use, without a lock.  Making it here could give
            # this thread a second one, which no code sends to.
            layer = channel_layers.backends.get(alias)
            if layer is None:
                continue
            stats = layer.stats
            stats.observe = LATENCY.labels(alias).observe
            known, before = _published.get(alias, (None, {}))
            if known is not stats:  # the first time in this process
                before = {}
            now = {name: getattr(stats, name) for name in COUNTERS}
            for name, counter in COUNTERS.items():
                # Never below 0: a count that another thread overwrites may decrease.
                counter.labels(alias).inc(max(0, now[name] - before.get(name, 0)))
            relay = layer.relay_report
            if relay is not None:
                RELAY_UP.labels(alias).set(not relay.reason)
                RELAY_ROUND_TRIP.labels(alias).set(relay.round_trip)
            _published[alias] = stats, now


def install() -> None:
    """Starts to publish, in this process and in its future forks.  Further calls do nothing."""
    global _is_installed  # noqa: PLW0603 - the metrics of prometheus-client are the process's, too
    if not _is_installed:
        _is_installed = True
        REGISTRY.register(DatabaseCollector())
        process.call_in_child(_start)
        for alias in our_layers():
            with suppress(ImproperlyConfigured):  # check E001 reports it, and so does its first use
                channel_layers[alias]
        publish()  # so that latencies are observed from the first message on
        atexit.register(publish)  # a command may take less than a second
        _start()


def _start() -> None:
    global _lock  # noqa: PLW0603 - the parent's thread may have held it
    _lock = threading.Lock()
    # uWSGI's master forks without Python's lock.  A thread of the master may hold it just then, and
    # the worker would wait for it for ever.
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or uwsgi.masterpid() != os.getpid():
        thread = threading.Thread(target=_publish_for_ever, name="channels-lite-metrics")
        thread.daemon = True
        thread.start()


def _publish_for_ever() -> None:
    while True:
        publish()
        time.sleep(EVERY)


def view(request: HttpRequest) -> HttpResponse:
    """All metrics of prometheus-client; those of all workers in its multi-process mode."""
    publish()
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(DatabaseCollector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
