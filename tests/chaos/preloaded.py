"""The server of ``tests.processes``, in a process that uses the layer before it forks workers."""

from __future__ import annotations

import asyncio
import os
import threading

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from tests.processes.server import application

__all__ = ["application"]

layer = get_channel_layer()
is_used = threading.Event()


async def answer() -> None:
    """Tells the room which process this is, whenever it is asked to."""
    while True:
        await layer.receive("master")
        is_used.set()
        await layer.group_send("room", {"type": "room.message", "content": {"master": os.getpid()}})


threading.Thread(target=asyncio.run, args=(answer(),), daemon=True).start()
async_to_sync(layer.send)("master", {})
is_used.wait()
