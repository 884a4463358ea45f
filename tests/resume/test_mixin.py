"""What the mixins say to a client, whatever the client says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.testing import WebsocketCommunicator
from django.core.exceptions import ImproperlyConfigured

from channels_lite.resume import ResumeMixin, SyncResumeMixin

HISTORY = {"room*": {"messages": 3, "seconds": 60}}


class Async(ResumeMixin, AsyncJsonWebsocketConsumer):
    """One of each kind, in two groups; the class has one of its own."""

    groups = ("plain",)
    joins = ("room-1", "room-2")

    async def connect(self) -> None:
        await self.accept()
        for group in self.joins:
            await self.resume(group)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"echo": content})

    async def line(self, event: dict[str, Any]) -> None:
        await self.pass_on(event, {"text": event["text"]})


class Sync(SyncResumeMixin, JsonWebsocketConsumer):
    """The same."""

    groups = ("plain",)
    joins = ("room-1", "room-2")

    def connect(self) -> None:
        self.accept()
        for group in self.joins:
            self.resume(group)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.send_json({"echo": content})

    def line(self, event: dict[str, Any]) -> None:
        self.pass_on(event, {"text": event["text"]})


@pytest.fixture(params=[Async, Sync])
def consumer(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def kind() -> str:
    """One layer is enough: all three have the same history."""
    return "notify"


@pytest.fixture
async def layer(make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    layer = make_layer(group_history=HISTORY)
    monkeypatch.setattr("channels.consumer.get_channel_layer", lambda alias: layer)
    return layer


@asynccontextmanager
async def client(consumer: Any, query: str = "") -> AsyncIterator[WebsocketCommunicator]:
    """A client that is connected, and has been told of nothing yet."""
    communicator = WebsocketCommunicator(consumer.as_asgi(), f"/ws/?{query}")
    communicator.scope["query_string"] = query.encode()
    connected, _ = await communicator.connect(timeout=20)
    assert connected
    yield communicator
    await communicator.disconnect(timeout=20)


async def told(communicator: WebsocketCommunicator, count: int) -> list[dict[str, Any]]:
    return [await communicator.receive_json_from(timeout=20) for _ in range(count)]


def after(**positions: object) -> str:
    """A query; ``room_1`` is for the group ``room-1``."""
    named = {name.replace("_", "-"): position for name, position in positions.items()}
    return urlencode({"after": json.dumps(named)})


async def say(layer: Any, group: str, *texts: str) -> None:
    for text in texts:
        await layer.group_send(group, {"type": "line", "text": text})


async def test_each_group_goes_on_from_its_position(layer: Any, consumer: Any):
    """First the client is told where it is in each group, then what it missed, then what is new."""
    async with client(consumer) as first:
        joined = await told(first, 2)
        assert [each["group"] for each in joined] == ["room-1", "room-2"]
        assert all(each["is_complete"] for each in joined)
        await say(layer, "room-1", "a")
        [heard] = await told(first, 1)
        assert heard == {"group": "room-1", "position": heard["position"], "text": "a"}
    await say(layer, "room-1", "b")
    await say(layer, "room-2", "c")
    where = after(room_1=heard["position"], room_2=joined[1]["position"])
    async with client(consumer, where) as second:
        assert [each["is_complete"] for each in await told(second, 2)] == [True, True]
        await say(layer, "room-1", "d")
        texts = {each["group"]: [] for each in joined}
        for each in await told(second, 3):
            texts[each["group"]].append(each["text"])
        assert texts == {"room-1": ["b", "d"], "room-2": ["c"]}


@pytest.mark.parametrize("position", ["", "nonsense", "1e9", "-1", "9" * 40, "é", "1-1"])
async def test_position_that_is_none_is_incomplete(layer: Any, consumer: Any, position: str):
    """Whatever a client says: it is told to start anew, and gets what is said from now on."""
    await say(layer, "room-1", "a")
    async with client(consumer, after(room_1=position)) as it:
        joined = await told(it, 2)
        assert [each["is_complete"] for each in joined] == [False, True]
        await say(layer, "room-1", "b")
        assert [each["text"] for each in await told(it, 1)] == ["b"]
    async with client(consumer, after(room_1=joined[0]["position"])) as it:
        assert [each["is_complete"] for each in await told(it, 2)] == [True, True]
        assert [each["text"] for each in await told(it, 1)] == ["b"]


@pytest.mark.parametrize(
    "query",
    ["after", "after=", "after=%7B", "after=[1]", "after=7", "after=null", "after=%FF", "%00&&=;"],
)
async def test_query_that_is_none_names_no_position(layer: Any, consumer: Any, query: str):
    """The client is as one that comes for the first time."""
    await say(layer, "room-1", "a")
    async with client(consumer, query) as it:
        assert [each["is_complete"] for each in await told(it, 2)] == [True, True]
        await say(layer, "room-1", "b")
        assert [each["text"] for each in await told(it, 1)] == ["b"]


@pytest.mark.parametrize("position", [7, None, True, ["a"], {"a": 1}])
async def test_position_that_is_not_text(layer: Any, consumer: Any, position: object):
    """Is none, or one that is not known; never an error."""
    async with client(consumer, after(room_1=position)) as it:
        joined = await told(it, 2)
        assert joined[0]["is_complete"] is (position is None)


async def test_position_of_another_group(layer: Any, consumer: Any):
    """Cannot be gone on from."""
    async with client(consumer) as it:
        await told(it, 2)
        await say(layer, "room-2", "a")
        [heard] = await told(it, 1)
    async with client(consumer, after(room_1=heard["position"])) as it:
        assert [each["is_complete"] for each in await told(it, 2)] == [False, True]


async def test_more_was_said_than_is_kept(layer: Any, consumer: Any):
    """The client is told."""
    async with client(consumer) as it:
        joined = await told(it, 2)
    await say(layer, "room-1", *"abcdef")
    await layer.clean_expired()
    async with client(consumer, after(room_1=joined[0]["position"])) as it:
        assert [each["is_complete"] for each in await told(it, 2)] == [False, True]


async def test_gap_in_what_is_passed_on(layer: Any, consumer: Any):
    """A message that follows a gap: the client is told first."""
    async with client(consumer) as it:
        await told(it, 2)
        [channel] = await layer.group_channels("room-1")
        place = {"history_id": "7", "history_group": "room-1", "history_is_complete": False}
        await layer.send(channel, {"type": "line", "text": "a"} | place)
        here = {"group": "room-1", "position": "7"}
        assert await told(it, 2) == [here | {"is_complete": False}, here | {"text": "a"}]


async def test_message_without_a_history_has_no_position(layer: Any, consumer: Any):
    """Of the class's own group, which is joined and left as ever."""
    async with client(consumer) as it:
        await told(it, 2)
        await say(layer, "plain", "a")
        assert await told(it, 1) == [{"text": "a"}]
        assert len(await layer.group_channels("plain")) == 1
    assert consumer.groups == ("plain",)
    for group in ("plain", "room-1", "room-2"):
        assert await layer.group_channels(group) == []


async def test_consumer_that_fails_leaves_its_groups(layer: Any, consumer: Any):
    """As it fails when it sends to a client that is gone; Channels leaves nothing then."""

    class Failing(consumer):
        def send(self, *args: Any, **kwargs: Any) -> Any:
            if "text" in str(args):
                raise OSError("the client is gone")
            return super().send(*args, **kwargs)

    communicator = WebsocketCommunicator(Failing.as_asgi(), "/ws/")
    communicator.scope["query_string"] = b""
    await communicator.connect(timeout=20)
    await told(communicator, 2)
    await say(layer, "room-1", "a")
    with pytest.raises(OSError, match="gone"):
        await communicator.wait(timeout=20)
    for group in ("plain", "room-1", "room-2"):
        assert await layer.group_channels(group) == []


async def test_ping_is_answered_and_all_else_is_the_consumers(layer: Any, consumer: Any):
    """The script's question never reaches the application."""
    async with client(consumer) as it:
        await told(it, 2)
        await it.send_to(text_data="ping")
        assert await it.receive_from(timeout=20) == "pong"
        await it.send_json_to("ping")
        assert await told(it, 1) == [{"echo": "ping"}]


async def test_group_without_a_history_is_an_error(layer: Any, consumer: Any):
    """Of the project, which learns the name of the setting at once, not when clients come back."""

    class Wrong(consumer):
        joins = ("other",)

    communicator = WebsocketCommunicator(Wrong.as_asgi(), "/ws/")
    communicator.scope["query_string"] = b""
    await communicator.connect(timeout=20)
    with pytest.raises(ImproperlyConfigured, match="group_history"):
        await communicator.wait(timeout=20)
