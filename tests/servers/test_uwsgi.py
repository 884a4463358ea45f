"""uWSGI, which forks in C, calls none of Python's hooks for it, and restarts its workers."""

from __future__ import annotations

import asyncio
import signal
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from tests.processes.conftest import TIMEOUT, wait_until
from tests.servers.conftest import Run, Server, free_port
from tests.servers.test_servers import connected, heard, serve

pytestmark = pytest.mark.skipif(find_spec("pyuwsgi") is None, reason="pyuwsgi is not installed")

MESSAGES = 10
# Of a worker; of nine that two workers serve, one of them has five.
REQUESTS = 5
UWSGI = [
    *(str(Path(sys.executable).with_name("uwsgi")), "--module", "tests.servers.wsgi"),
    *("--master", "--processes", "2", "--enable-threads", "--die-on-term"),
    *("--max-requests", str(REQUESTS), "--min-worker-lifetime", "0"),
    # Else a reload would start the Python that the environment was made of.
    *("--binary-path", sys.executable),
]


async def until_logged(server: Server, line: str) -> None:
    """Returns when its log has ``line``."""
    await asyncio.to_thread(wait_until, lambda: line in server.log.read_text())


def sent(directory: Path) -> float:
    """The messages that all workers have published."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))
    return registry.get_sample_value("channels_lite_group_sent_total", {"layer": "default"}) or 0


@pytest.mark.parametrize("options", [[], ["--lazy-apps"]], ids=["loaded_once", "lazy_apps"])
async def test_views_of_workers_that_are_restarted_lose_nothing(
    run: Run, options: list[str], tmp_path: Path
):
    """What each view streams is heard once and in order, and no channel is two workers'.

    Each worker publishes its metrics.
    """
    [(port, server)] = serve(run, "uvicorn").items()
    client, _ = await asyncio.wait_for(connected(port, server), TIMEOUT)
    port = free_port()
    address = f"127.0.0.1:{port}"
    uwsgi = run(
        *(*UWSGI, "--http-socket", address, *options), PROMETHEUS_MULTIPROC_DIR=str(tmp_path)
    )
    await until_logged(uwsgi, "spawned uWSGI worker 2")

    def ask(path: str) -> bytes:
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=3 * TIMEOUT) as answer:
            return answer.read()

    async def stream(first: int) -> list[bytes]:
        numbers = range(first, first + 2 * REQUESTS)
        requests = [f"stream/request-{number}/{MESSAGES}" for number in numbers]
        return await asyncio.gather(*(asyncio.to_thread(ask, each) for each in requests))

    channels = await stream(0)
    await until_logged(uwsgi, "The work of process")
    uwsgi.signal(signal.SIGHUP)
    channels += await stream(2 * REQUESTS)
    names = {f"request-{number}" for number in range(4 * REQUESTS)}
    said = await asyncio.wait_for(heard(client, len(names) * MESSAGES), TIMEOUT)
    assert said == {name: list(range(MESSAGES)) for name in names}
    assert len(set(channels)) == len(names)
    await until_logged(uwsgi, "gracefully (RE)spawned uWSGI master")
    published = sent(tmp_path)
    await asyncio.to_thread(ask, f"stream/last/{MESSAGES}")
    await asyncio.to_thread(wait_until, lambda: sent(tmp_path) > published)
    await client.close()
