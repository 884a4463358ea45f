"""The WebSocket of a browser, and the worker behind the channel "jobs"."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings

from channels_lite.resume import ResumeMixin
from chat.models import Message, clean, group_of, probes_of

#: Of the latest messages each connection is told the ids, so that the page knows if it missed one.
LATEST = 200


class RoomConsumer(ResumeMixin, AsyncJsonWebsocketConsumer):
    """One browser in one room."""

    async def connect(self) -> None:
        """Joins the room where the browser was cut off, and tells it which process it reached."""
        self.room: str = self.scope["url_route"]["kwargs"]["room"]
        self.group = group_of(self.room)
        await self.accept()
        if settings.HAS_HISTORY:
            await self.resume(self.group)
        else:
            await self.join(self.group)
        await self.join(probes_of(self.room))
        latest = Message.objects.filter(room=self.room).order_by("-id").values_list("id", flat=True)
        ids = [number async for number in latest[:LATEST]]
        hello = {"type": "hello", "pid": os.getpid(), "node": settings.NODE}
        await self.send_json(hello | {"ids": ids, "at": time.time() * 1000})

    async def join(self, group: str) -> None:
        """Joins what has no history."""
        self.groups.append(group)  # Channels leaves these when the browser disconnects
        await self.channel_layer.group_add(group, self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """A line of chat, a probe of the latency, or an end of this process."""
        match content:
            case {"type": "restart"} if settings.DEBUG:
                os.kill(os.getpid(), signal.SIGKILL)  # uvicorn starts another one
            case {"type": "say", "name": str(name), "text": str(text)}:
                await self.say(name, text)
            case {"type": "ping", "id": int(number)}:
                await self.ping(number)

    async def say(self, name: str, text: str) -> None:
        """Keeps the line, sends it to the room, and hands "/count" to the worker."""
        said = clean(name, text)
        if said is None:
            return
        message = await Message.objects.acreate(room=self.room, via="websocket", **said)
        event = {"type": "room.message", "message": message.as_dict()}
        await self.channel_layer.group_send(self.group, event)
        if message.text == "/count":
            try:
                await self.channel_layer.send("jobs", {"type": "count", "room": self.room})
            except ChannelFull:
                text = "The worker is behind: too many jobs wait."
                await self.send_json({"type": "notice", "text": text})

    async def ping(self, number: int) -> None:
        """Sends a probe through the layer to the whole room, this browser included."""
        probe = {"type": "room.ping", "id": number, "sender": self.channel_name, "pid": os.getpid()}
        # Processes on one machine share this clock, so each receiver can measure with it.
        probes = probes_of(self.room)
        await self.channel_layer.group_send(probes, probe | {"sent": time.monotonic()})

    async def room_message(self, event: dict[str, Any]) -> None:
        """From the group: somebody said something, or the worker answered."""
        await self.pass_on(event, {"type": "message", **event["message"]})

    async def room_ping(self, event: dict[str, Any]) -> None:
        """From the group: a probe, ours or another browser's."""
        layer_ms = (time.monotonic() - event["sent"]) * 1000
        is_mine = event["sender"] == self.channel_name
        pong = {"id": event["id"], "pid": event["pid"], "mine": is_mine, "layer_ms": layer_ms}
        await self.send_json({"type": "pong", **pong})


class JobConsumer(AsyncConsumer):
    """Runs in ``manage.py runworker jobs``, a process without a web server."""

    async def count(self, event: dict[str, Any]) -> None:
        """Counts the room's messages, and answers to everybody in it."""
        total = await Message.objects.filter(room=event["room"]).acount()
        answer = {
            "name": "Worker",
            "text": f"{total} message{'s' * (total != 1)} in #{event['room']} so far.",
            "via": "worker",
            "pid": os.getpid(),
            "at": time.time() * 1000,
        }
        reply = {"type": "room.message", "message": answer}
        await self.channel_layer.group_send(group_of(event["room"]), reply)
