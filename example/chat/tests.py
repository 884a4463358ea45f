"""Run by ``python manage.py test``: the view and the consumers, without a server."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.test import TestCase

from channels_lite.testing import ChannelLayerMixin
from chat.asgi import application
from chat.consumers import JobConsumer
from chat.models import Message, group_of


class ChatTests(ChannelLayerMixin, TestCase):
    """Who says what to whom."""

    def test_a_post_is_saved_and_sent_to_its_room(self) -> None:
        """The room hears of the very message that is in the table."""
        self.client.post("/room/lobby/post/", {"name": "Ada", "text": "hello"})
        message = Message.objects.get(room="lobby", text="hello")
        self.assert_sent(group_of("lobby"), type="room.message", message=message.as_dict())
        self.assert_nothing_sent(group_of("kitchen"))

    def test_an_empty_post_is_sent_to_nobody(self) -> None:
        """Neither saved, nor sent."""
        assert self.client.post("/room/lobby/post/", {"text": " "}).status_code == 400
        self.assert_nothing_sent()

    async def test_a_browser_hears_its_room(self) -> None:
        """What is sent to the group comes out of the WebSocket."""
        browser = WebsocketCommunicator(
            application, "/ws/lobby/", headers=[(b"origin", b"http://localhost")]
        )
        await browser.connect()
        joined = await browser.receive_json_from()
        assert (joined["group"], joined["is_complete"]) == (group_of("lobby"), True)
        assert (await browser.receive_json_from())["type"] == "hello"
        event = {"type": "room.message", "message": {"text": "hello"}}
        await self.channel_layer.group_send(group_of("lobby"), event)
        heard = await browser.receive_json_from()
        assert (heard["type"], heard["text"]) == ("message", "hello")
        await browser.disconnect()

    async def test_a_browser_ends_no_process(self) -> None:
        """Without DEBUG; else this test would end here."""
        browser = WebsocketCommunicator(
            application, "/ws/lobby/", headers=[(b"origin", b"http://localhost")]
        )
        await browser.connect()
        await browser.send_json_to({"type": "restart"})
        await browser.send_json_to({"type": "ping", "id": 7})
        while (await browser.receive_json_from()).get("id") != 7:
            pass
        await browser.disconnect()

    def test_the_worker_answers_the_room(self) -> None:
        """It counts what was said there."""
        Message.objects.create(room="lobby", via="post", name="Ada", text="one")

        worker = JobConsumer()
        worker.channel_layer = self.channel_layer
        async_to_sync(worker.count)({"type": "count", "room": "lobby"})
        answer = self.assert_sent(group_of("lobby"), type="room.message")["message"]
        assert answer["text"] == "1 message in #lobby so far."
