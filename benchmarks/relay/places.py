"""Where the contenders run: two nodes and the engines on machines of their own.

The machines are network namespaces, or, where none can be made, the loopback.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.relay.child import Child
from tests.relay.engines import Engine, NatsServer, RedisServer
from tests.relay.network import Network, why_not

__all__ = ["Place", "place"]


class Place:
    """Two nodes, and a NATS and a Redis."""

    NODES = ("here", "there")

    def __init__(self, network: Network | None, folder: Path, engines: dict[str, Engine]) -> None:
        self._network = network
        self._folder = folder
        self.engines = engines

    def url(self, node: str, name: str) -> str:
        """The engine's, as that node reaches it."""
        engine = self.engines[name]
        return engine.url if self._network is None else self._network.url(node, engine)

    def child(self, node: str, contender: str) -> Child:
        """A process on that node."""
        database = self._folder / node / "db.sqlite3"
        database.parent.mkdir(exist_ok=True)
        within = () if self._network is None else self._network.within(node)
        return Child(entry_of(contender, self, node), database, within)

    @contextmanager
    def children(self, contender: str, *nodes: str) -> Iterator[list[Child]]:
        """One on each of these nodes."""
        with ExitStack() as stack:
            started = [self.child(node, contender) for node in nodes]
            for each in started:
                stack.callback(each.end)
            for each in started:
                each.finish()
            yield started

    def taken(self, name: str) -> int:
        """The bytes that the engine has got."""
        if name == "Redis":
            said = self._ask("redis-cli", "-p", str(self.engines[name].port), "info", "stats")
            lines = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
            return int(lines["total_net_input_bytes"])
        page = f"http://127.0.0.1:{PAGES}/varz"
        script = f"import urllib.request as u; print(u.urlopen({page!r}).read().decode())"
        return int(json.loads(self._ask(sys.executable, "-c", script))["in_bytes"])

    def _ask(self, *command: str) -> str:
        within = () if self._network is None else self._network.within("engine")
        asked = [*within, *command]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout


#: The port on which nats-server says what it has done.
PAGES = 8222
#: What every contender may hold, so that none refuses what another one takes.
CAPACITY = 100_000
OURS = "channels_lite.layers.notify.NotifyChannelLayer"


def entry_of(contender: str, place: Place, node: str) -> dict[str, Any]:
    """The entry of ``CHANNEL_LAYERS``."""
    nats, redis = place.url(node, "NATS"), f"{place.url(node, 'Redis')}/0"
    return {
        "ours, NATS": {"BACKEND": OURS, "CONFIG": {"relay": nats, "capacity": CAPACITY}},
        "ours, Redis": {"BACKEND": OURS, "CONFIG": {"relay": redis, "capacity": CAPACITY}},
        "ours, no relay": {"BACKEND": OURS, "CONFIG": {"capacity": CAPACITY}},
        "pub/sub": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [redis]},
        },
        "core": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [redis], "capacity": CAPACITY},
        },
        "channels-nats": {
            "BACKEND": "channels_nats.NatsChannelLayer",
            "CONFIG": {"servers": [nats], "capacity": CAPACITY},
        },
    }[contender]


@contextmanager
def place(folder: Path) -> Iterator[tuple[Place, str]]:
    """The place, and what it is."""
    reason = why_not()
    with ExitStack() as stack:
        network = None
        if not reason:
            network = Network()
            stack.callback(network.close)
        engines: dict[str, Engine] = {}
        pages = "-m", str(PAGES)
        servers = ("NATS", NatsServer, 4222, pages), ("Redis", RedisServer, 6379, ())
        for name, kind, port, arguments in servers:
            if network is None:
                engine = kind(folder / name, *arguments)
            else:
                engine = network.engine(kind, folder / name, *arguments, port=port)
            stack.callback(engine.kill)
            engines[name] = engine.start()
        is_apart = "two nodes and the engines, each in a network namespace of its own"
        yield Place(network, folder, engines), f"the loopback: {reason}" if reason else is_apart
