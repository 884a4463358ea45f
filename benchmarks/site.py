"""The site that is measured end to end: a chat, as the tutorial of Channels has it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.child import set_up
from benchmarks.interrupts import held
from benchmarks.peers import PEERS, Peer

__all__ = ["application", "uvicorn"]


def application() -> Any:
    """The ASGI application of the peer that SITE names; for ``uvicorn --factory``."""
    site = json.loads(os.environ["SITE"])
    set_up(PEERS[site["peer"]], site["place"])
    from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: PLC0415

    class Chat(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        """What a client says goes to all clients of its room, of which the path is the name."""

        async def connect(self) -> None:
            self.room = self.scope["path"].strip("/")
            await self.channel_layer.group_add(self.room, self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard(self.room, self.channel_name)

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.channel_layer.group_send(self.room, {"type": "chat.said", "said": content})

        async def chat_said(self, event: dict[str, Any]) -> None:
            await self.send_json(event["said"])

    return Chat.as_asgi()


@contextmanager
def uvicorn(peer: Peer, place: dict[str, Any], processes: int) -> Iterator[list[int]]:
    """Serves it from so many processes; yields their ports, which take connections already."""
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(processes)]
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for each in sockets:
            command = [
                sys.executable, "-m", "uvicorn", "--factory", "benchmarks.site:application",
                "--fd", str(each.fileno()), "--log-level", "error", "--lifespan", "off",
            ]  # fmt: skip
            site = json.dumps({"peer": peer.name, "place": place})
            with held():
                servers.append(
                    subprocess.Popen(
                        command,
                        pass_fds=[each.fileno()],
                        start_new_session=True,
                        env=os.environ | {"SITE": site},
                    )
                )
        yield [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
        for server in servers:
            server.send_signal(signal.SIGKILL)
            server.wait()
