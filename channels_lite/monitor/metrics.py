"""Metrics for Prometheus, by prometheus-client (``pip install channels-lite[metrics]``).

Call ``install()`` once, in an ``AppConfig.ready()``.  What the layers of a process count then goes
into counters of prometheus-client, once a second, in a thread; so with several workers its own
multi-process mode (``PROMETHEUS_MULTIPROC_DIR``) adds them up.  What the table holds is asked at
each scrape by `DatabaseCollector`; it is the same whichever process is asked.
"""

from __future__ import annotations

import atexit
import logging
import os
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

from channels_lite.delivery.stats import Stats
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.configured import our_layers
from channels_lite.monitor import snapshot

__all__ = ["DatabaseCollector", "install", "publish", "view"]

logger = logging.getLogger(__name__)

# Seconds between two rounds of the thread.
EVERY = 1.0

COUNTERS = {
    "sent": Counter("channels_lite_sent", "Messages that send() took", ["layer"]),
    "group_sent": Counter("channels_lite_group_sent", "Messages that group_send() took", ["layer"]),
    "received": Counter("channels_lite_received", "Messages that receive() returned", ["layer"]),
    "expired": Counter("channels_lite_expired", "Messages that expired unread", ["layer"]),
    "full": Counter("channels_lite_full", "Messages that found a channel full", ["layer"]),
    "undecodable": Counter("channels_lite_undecodable", "Messages dropped as garbage", ["layer"]),
    "wakes": Counter("channels_lite_wakes", "Wake-ups by a commit", ["layer"]),
    "looks": Counter("channels_lite_looks", "Looks into the table", ["layer"]),
    "found_by_clock": Counter(
        "channels_lite_found_by_clock", "Looks by the clock that found unannounced rows", ["layer"]
    ),
    "relayed": Counter("channels_lite_relayed", "Messages that went to other nodes", ["layer"]),
    "relay_received": Counter(
        "channels_lite_relay_received", "Messages that came from other nodes", ["layer"]
    ),
    "relay_missed": Counter(
        "channels_lite_relay_missed", "Messages that other nodes missed", ["layer"]
    ),
    "failed_looks": Counter("channels_lite_failed_looks", "Looks that failed", ["layer"]),
}
# By process; the worst of all, where prometheus-client adds them up.
RELAY_UP = Gauge(
    "channels_lite_relay_up",
    "Whether the engine of the relay answers",
    ["layer"],
    multiprocess_mode="livemin",
)
RELAY_ROUND_TRIP = Gauge(
    "channels_lite_relay_round_trip_seconds",
    "The last round trip to the engine of the relay",
    ["layer"],
    multiprocess_mode="livemax",
)
LATENCY = Histogram(
    "channels_lite_latency_seconds",
    "From send() to receive(), where both have the same expiry",
    ["layer"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
# Fields of a snapshot.
GAUGES = [
    ("waiting", "waiting", "Rows that wait"),
    ("memberships", "memberships", "Channels in groups"),
    ("processes", "processes", "Processes that use a layer, and are alive"),
    ("size", "database_bytes", "Size of the database"),
    ("log_size", "log_bytes", "Size of the database's log"),
]


class DatabaseCollector(Collector):
    """Rows that wait, memberships, processes that use a layer, and bytes of the files."""

    def describe(self) -> list[GaugeMetricFamily]:
        """Without it, registering would ask the database."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Asked at a scrape; a database that cannot be read is left out, and logged."""
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
                if name == "processes":
                    value = sum(each.is_alive for each in value)
                gauge.add_metric([alias], value)
        yield from gauges.values()


#: By layer, what was published of which `Stats`.
_published: dict[str, tuple[Stats, dict[str, int]]] = {}
_lock = threading.Lock()
_is_installed = False


def publish() -> None:
    """Hands on what was counted since the last time; `install` has it called every second."""
    with _lock:
        for alias in our_layers():
            # Channels makes a layer at its first use, without a lock: to make it here could leave
            # this thread with a second one, which nobody sends to.
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
                # Not less: a count that another thread has overwritten may fall.
                counter.labels(alias).inc(max(0, now[name] - before.get(name, 0)))
            relay = layer.relay_report
            if relay is not None:
                RELAY_UP.labels(alias).set(not relay.reason)
                RELAY_ROUND_TRIP.labels(alias).set(relay.round_trip)
            _published[alias] = stats, now


def install() -> None:
    """Starts to publish, in this process and in those that it will fork.  Once."""
    global _is_installed  # noqa: PLW0603 - the metrics of prometheus-client are the process's, too
    if not _is_installed:
        _is_installed = True
        REGISTRY.register(DatabaseCollector())
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=_start)
        for alias in our_layers():
            with suppress(ImproperlyConfigured):  # check E001 says so, or who asks for the layer
                channel_layers[alias]
        publish()  # and observes from the first message on
        atexit.register(publish)  # a command may take less than a second
        _start()


def _start() -> None:
    global _lock  # noqa: PLW0603 - the parent's thread may have held it
    _lock = threading.Lock()
    threading.Thread(target=_publish_for_ever, name="channels-lite-metrics", daemon=True).start()


def _publish_for_ever() -> None:
    while True:
        publish()
        time.sleep(EVERY)


def view(request: HttpRequest) -> HttpResponse:
    """All metrics of prometheus-client's, of all workers in its multi-process mode."""
    publish()
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(DatabaseCollector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
