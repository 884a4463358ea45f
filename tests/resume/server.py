"""A site whose page has a WebSocket by resume.js.

``/page/?groups=room&storage=1``: the page keeps the messages it gets in ``heard``, and with
``handles=1`` the groups that were incomplete in ``incomplete``.
"""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.staticfiles.views import serve
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

http = get_asgi_application()

from channels_lite.resume import ResumeMixin, SyncResumeMixin  # noqa: E402

PAGE = """<!doctype html>
<title>Page</title>
<script src="/static/channels_lite/resume.js"></script>
<script>
  const asked = new URLSearchParams(location.search);
  const storage = asked.has("storage") ? sessionStorage : null;
  const heard = [], incomplete = [], ends = [];
  const socket = new ResumingSocket(`/ws/${asked.get("kind") ?? "async"}/${asked.get("groups")}/`,
                                    { storage });
  socket.onmessage = (message) => heard.push(message);
  socket.onclose = (event) => ends.push(event?.code);
  if (asked.has("handles")) socket.onincomplete = (group) => incomplete.push(group);
</script>
"""


def page(request: HttpRequest) -> HttpResponse:
    """What a browser opens."""
    return HttpResponse(PAGE)


urlpatterns: list[Any] = [
    path("page/", page),
    path("static/<path:path>", serve, {"insecure": True}),
]


def groups_of(scope: Any) -> list[str]:
    """Those of the address."""
    return scope["url_route"]["kwargs"]["groups"].split(",")


class Room(ResumeMixin, AsyncJsonWebsocketConsumer):
    """Passes on what anybody says in its groups.

    ``{"join": group}`` joins once more, and ``{"end": code}`` ends the connection.
    """

    async def connect(self) -> None:
        await self.accept()
        for group in groups_of(self.scope):
            await self.resume(group)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if "join" in content:
            await self.resume(content["join"])
        else:
            await self.close(content["end"])

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.pass_on(event, event["content"])


class SyncRoom(SyncResumeMixin, JsonWebsocketConsumer):
    """The same, in threads."""

    def connect(self) -> None:
        self.accept()
        for group in groups_of(self.scope):
            self.resume(group)

    def room_message(self, event: dict[str, Any]) -> None:
        self.pass_on(event, event["content"])


sockets = URLRouter(
    [
        path("ws/async/<groups>/", Room.as_asgi()),
        path("ws/sync/<groups>/", SyncRoom.as_asgi()),
    ]
)
application = ProtocolTypeRouter({"http": http, "websocket": sockets})
