"""The streams of JetStream, made when they are needed.

Thread: the relay's loop.  It has no state: a stream that exists is changed to its configuration.
"""

from __future__ import annotations

from typing import Any

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Settings
from channels_lite.relay.nats.requests import Requests, code_of, said_by

__all__ = ["Streams"]

# Of JetStream's errors: a stream that has another configuration; too few servers for so many
# replicas.
OTHER_CONFIG, FEW_PEERS = 10058, (10005, 10074)


class Streams:
    """Makes and empties them."""

    def __init__(self, settings: Settings, requests: Requests) -> None:
        self._settings = settings
        self._requests = requests

    @property
    def replicas(self) -> int:
        """The number of copies of each."""
        return self._settings.replicas or (3 if self._requests.client.info.get("cluster") else 1)

    async def make(self, name: str, config: dict[str, Any]) -> None:
        """Creates a stream, or updates its configuration."""
        api = self._requests.api
        config = {"name": name, "num_replicas": self.replicas} | config
        code = code_of(made := await api(f"STREAM.CREATE.{name}", **config))
        if code in FEW_PEERS and self._settings.replicas is None:
            config["num_replicas"] = 1
            code = code_of(made := await api(f"STREAM.CREATE.{name}", **config))
        if code == OTHER_CONFIG:
            code = code_of(made := await api(f"STREAM.UPDATE.{name}", **config))
        if code:
            raise StoreUnavailable(f"JetStream refuses the stream {name}: {said_by(made)}")

    async def clear(self) -> None:
        """Empties all of ours."""
        api = self._requests.api
        said = await api("STREAM.NAMES", subject=f"{self._settings.prefix}.>")
        for name in said.get("streams") or ():
            await api(f"STREAM.PURGE.{name}")
