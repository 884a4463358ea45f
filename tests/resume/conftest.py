"""Servers that are killed, and the network between."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.browser import browser
from tests.chaos.conftest import query
from tests.processes.conftest import (
    TIMEOUT,
    Child,
    configured,
    empty_database,
    folder,
    start,
    wait_until,
    write_ahead_log,
)
from tests.resume.proxy import Proxy
from tests.servers.conftest import Run, Server, free_port, run

__all__ = ["browser", "empty_database", "folder", "query", "run", "start", "write_ahead_log"]

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.resume.settings"}


class Site:
    """One process of a server, on a port of its own, which stays over its restarts."""

    def __init__(self, run: Run, layer: str, **environment: str) -> None:
        self._run = run
        self._environment = SETTINGS | {"TEST_LAYER": layer} | configured(layer) | environment
        self.port = free_port()
        self.server: Server
        self.start()

    def start(self) -> None:
        command = ["uvicorn", "--lifespan", "off", "--port", self.port]
        self.server = self._run(*command, "tests.resume.server:application", **self._environment)

    def is_up(self) -> bool:
        """Whether it answers; fails if it never will."""
        assert self.server.is_running(), self.server.log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", int(self.port)), TIMEOUT):
            return True
        return False

    def wait(self) -> None:
        wait_until(self.is_up)


@pytest.fixture
def make_site(run: Run, write_ahead_log: None) -> Callable[..., Site]:
    """Starts a server; it may not answer yet."""

    def make(layer: str = "notify.NotifyChannelLayer") -> Site:
        return Site(run, layer)

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    site = make_site()
    site.wait()
    return site


@pytest.fixture
def make_sender(start: Callable[..., Child]) -> Callable[..., Child]:
    """A process that sends to the groups."""

    def make(layer: str = "notify.NotifyChannelLayer") -> Child:
        return start(layer, **SETTINGS)

    return make


@pytest.fixture
def sender(make_sender: Callable[..., Child]) -> Child:
    return make_sender()


@pytest.fixture
def make_proxy() -> Iterator[Callable[..., Proxy]]:
    proxies: list[Proxy] = []

    def make(target: Callable[[], Any]) -> Proxy:
        proxies.append(Proxy(target))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()
