"""Metrics of several workers, as Prometheus scrapes them."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request

import pytest
from channels.layers import channel_layers

from channels_lite.metrics import publish
from tests.processes.conftest import child_environment, wait_until
from tests.servers.conftest import empty_database, folder, free_port, run

__all__ = ["empty_database", "folder", "run"]


def scraped(port, page="metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as answer:
        return answer.read().decode()


def value(text, name):
    """The sum of a metric's samples of the layer "default"."""
    found = re.findall(rf'^{name}{{[^}}]*layer="default"[^}}]*}} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


def test_publishing_makes_no_layer(monkeypatch):
    """Its thread would race with the first use, and might watch a layer that nobody uses."""
    monkeypatch.setattr(channel_layers, "backends", {})
    publish()
    assert channel_layers.backends == {}


def test_latency_is_observed_from_the_first_message_on():
    """Not from the first round of the thread on, a second later."""
    code = (
        "import django; django.setup()\n"
        "from channels.layers import get_channel_layer\n"
        "from channels_lite.metrics import install; install()\n"
        "assert get_channel_layer().stats.observe is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SEND = """
import django; django.setup()
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels_lite.metrics import install; install()
async_to_sync(get_channel_layer().send)("jobs", {"type": "job"})
"""
SCRAPE = """
import django; django.setup()
from channels_lite.metrics import view
print(view(None).content.decode())
"""


def test_a_short_command_is_counted(folder):
    """One that ends before the thread has published what it sent."""
    (folder / "metrics").mkdir()
    environment = child_environment(folder, PROMETHEUS_MULTIPROC_DIR=str(folder / "metrics"))
    for code in (SEND, SEND, SCRAPE):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True
        )
    assert value(done.stdout.decode(), "channels_lite_sent_total") == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_counters_of_all_workers_are_added_up(run, folder, monkeypatch, workers):
    """Whichever worker is asked, it tells of all: messages sent and received, rows, processes."""
    if workers > 1:
        (folder / "metrics").mkdir()
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder / "metrics"))
    port = free_port()
    application = "tests.processes.server:wsgi"
    run("gunicorn", "--workers", str(workers), "-b", f"127.0.0.1:{port}", application)
    run("django", "runworker", "jobs")

    def is_up():
        try:
            return value(scraped(port), "channels_lite_processes") == 1
        except OSError:
            return False

    wait_until(is_up)
    for number in range(20):
        scraped(port, f"say/{number}")

    def count(name):
        return value(scraped(port), f"channels_lite_{name}_total")

    # Without the multi-process mode a worker tells of itself alone.
    wait_until(lambda: count("sent") == 20)
    if workers > 1:
        wait_until(lambda: count("group_sent") == 40)  # by the views, and by the worker
        wait_until(lambda: count("received") == 20)
        assert (count("sent"), count("group_sent")) == (20, 40)
        assert value(scraped(port), "channels_lite_latency_seconds_count") == 20
        assert value(scraped(port), "channels_lite_full_total") == 0
    assert value(scraped(port), "channels_lite_database_bytes") > 0
