"""A project that changed nothing but ``BACKEND``: sessions and channels in one default database."""

from __future__ import annotations

import os
import threading
from typing import Any

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import BaseChannelLayer, get_channel_layer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from channels_lite import metrics


async def stream(layer: BaseChannelLayer, by: str, count: int) -> None:
    """Tells the room so many numbers without a pause, as somebody does who streams tokens."""
    for number in range(count):
        content = {"by": by, "number": number}
        await layer.group_send("room", {"type": "room.message", "content": content})


def stream_from_view(request: HttpRequest, by: str, count: int) -> HttpResponse:
    """The same from a sync view, which answers with the name of a channel of its own."""
    layer = get_channel_layer()
    for number in range(count):
        content = {"by": by, "number": number}
        async_to_sync(layer.group_send)("room", {"type": "room.message", "content": content})
    return HttpResponse(async_to_sync(layer.new_channel)())


def stream_from_worker(request: HttpRequest, count: int) -> HttpResponse:
    """Has a worker do it."""
    async_to_sync(get_channel_layer().send)("jobs", {"type": "stream", "count": count})
    return HttpResponse()


def say(request: HttpRequest, number: int) -> HttpResponse:
    """A sync view that tells the room, and gives a worker a job."""
    layer = get_channel_layer()
    message = {"type": "room.message", "content": {"by": "view", "number": number}}
    async_to_sync(layer.group_send)("room", message)
    async_to_sync(layer.send)("jobs", {"type": "job", "number": number})
    return HttpResponse()


urlpatterns: list[Any] = [
    path("say/<int:number>", say),
    path("stream/worker/<int:count>", stream_from_worker),
    path("stream/<slug:by>/<int:count>", stream_from_view),
    path("health/", include("channels_lite.urls")),
    path("metrics", metrics.view),
]
metrics.install()


class Room(AsyncJsonWebsocketConsumer):
    """Says its process, then repeats what anybody in the room says.

    Whoever says ``{"stream": count}`` has it stream to the room, of which it is a member itself.
    """

    groups = ("room",)

    async def connect(self) -> None:
        await super().connect()
        # Of some servers, on a Python without a GIL, the workers are threads.
        await self.send_json({"worker": f"{os.getpid()}.{threading.get_ident()}"})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if "stream" in content:
            await stream(self.channel_layer, "member", content["stream"])
            return
        await self.channel_layer.group_send("room", {"type": "room.message", "content": content})

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event["content"])


class Speaker(AsyncJsonWebsocketConsumer):
    """Streams to the room, and is no member of it."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await stream(self.channel_layer, "consumer", content["stream"])


class Job(AsyncConsumer):
    """For ``manage.py runworker jobs``: tells the room what it was told to do."""

    async def job(self, event: dict[str, Any]) -> None:
        content = {"by": "worker", "number": event["number"]}
        await self.channel_layer.group_send("room", {"type": "room.message", "content": content})

    async def stream(self, event: dict[str, Any]) -> None:
        await stream(self.channel_layer, "worker", event["count"])


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws", Room.as_asgi()), path("ws/speaker", Speaker.as_asgi())]),
        "channel": ChannelNameRouter({"jobs": Job.as_asgi()}),
    }
)
wsgi = get_wsgi_application()
