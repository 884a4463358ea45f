"""A Redis that Sentinel replaces: its master is killed, and a replica takes over."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import received
from tests.relay.conftest import needs
from tests.relay.engines import Engine, RedisServer
from tests.relay.test_faults import is_up, sent

SERVICE = "mymaster"


class Sentinel(Engine):
    """It watches one master, and decides alone."""

    binary, scheme, ready = "redis-server", "redis", b"Sentinel ID is"

    def __init__(self, folder: Path, master: RedisServer) -> None:
        super().__init__(folder)
        self._master = master

    def command(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f"dir {self.folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 300\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        return [str(config), "--sentinel"]


@pytest.fixture
def master(tmp_path: Path) -> Iterator[tuple[RedisServer, Sentinel]]:
    """The master and who watches it; its replica is known to both."""
    needs("redis")
    with ExitStack() as started:

        def start(engine: Any) -> Any:
            started.callback(engine.kill)
            return engine.start()

        first = start(RedisServer(tmp_path / "first"))
        start(RedisServer(tmp_path / "second", "--replicaof", "127.0.0.1", str(first.port)))
        waits = ["redis-cli", "-p", str(first.port), "wait", "1", "20000"]
        subprocess.run(waits, check=True, capture_output=True)
        yield first, start(Sentinel(tmp_path / "sentinel", first))


@pytest.mark.chaos
async def test_master_is_replaced(make_node, master):
    """The link finds the new one; members and jobs go on, and nobody is started again."""
    first, sentinel = master
    options = {"sentinels": [("127.0.0.1", sentinel.port)], "service": SERVICE}
    here, there = (
        make_node(node, "redis://unused", relay_options=options) for node in ("here", "there")
    )
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await sent(here.send, "jobs", {"number": 1})
    assert await received(there, "jobs") == {"number": 1}
    losses = [layer._engine.relay.connection.losses for layer in (here, there)]
    first.kill()
    await sent(here.send, "jobs", {"number": 2})
    assert await received(there, "jobs") == {"number": 2}
    await is_up(here, there)
    await here.group_send("room", {"number": 3})
    assert await received(there, channel) == {"number": 3}
    for layer, before in zip((here, there), losses, strict=True):
        assert layer._engine.relay.connection.losses == before + 1
