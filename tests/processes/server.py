"""A project that changed nothing but ``BACKEND``: sessions and channels in one default database."""

from __future__ import annotations

import os
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

urlpatterns: list[Any] = []


class Room(AsyncJsonWebsocketConsumer):
    """Says its process, then repeats what anybody in the room says."""

    groups = ("room",)

    async def connect(self) -> None:
        await super().connect()
        await self.send_json({"pid": os.getpid()})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_send("room", {"type": "room.message", "content": content})

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event["content"])


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws", Room.as_asgi())]),
    }
)
