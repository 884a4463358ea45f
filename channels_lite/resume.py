"""The server's side of ``static/channels_lite/resume.js``: consumers whose clients miss nothing.

The head of the script describes what the two say to each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from asgiref.sync import async_to_sync

from channels_lite.delivery.log import without_history
from channels_lite.errors import InvalidPosition

__all__ = ["ResumeMixin", "SyncResumeMixin"]

PING, PONG = "ping", "pong"


class _Resume:
    """What both mixins need of their consumer."""

    scope: dict[str, Any]
    channel_layer: Any
    channel_name: str
    groups: list[str]

    async def __call__(self, *connection: Any) -> None:
        """Leaves the groups also where the consumer fails, as it does in a send to a lost client.

        Else each client that is cut off would stay a member, of which Channels takes no leave then.
        """
        try:
            await super().__call__(*connection)  # type: ignore[misc]
        except BaseException:
            for group in self.groups:
                await self.channel_layer.group_discard(group, self.channel_name)
            raise

    def _after(self, group: str) -> str | None:
        """The position of the last message that the client has; it may say anything."""
        query = parse_qs(self.scope["query_string"].decode(errors="replace"))
        try:
            positions = json.loads(query["after"][0])
        except (KeyError, ValueError):
            return None
        return positions.get(group) if isinstance(positions, dict) else None

    async def _join(self, group: str) -> str:
        """Joins; returns what the client is told."""
        self.groups = [*self.groups, group]  # which Channels leaves at the end; not the class's own
        add, is_known = self.channel_layer.group_add, True
        try:
            joined = await add(group, self.channel_name, after=self._after(group))
        except InvalidPosition:
            joined, is_known = await add(group, self.channel_name), False
        if joined is None:
            raise without_history(group)
        return _told(group, joined.position, is_complete=is_known and joined.is_complete)


def _told(group: str, position: str, **content: object) -> str:
    return json.dumps({"group": group, "position": position, **content})


def _passed_on(event: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[str]:
    """What the client gets for a message, with a word before it if others before it are gone."""
    if "history_group" not in event:  # sent to a group without a history, or to the channel itself
        yield json.dumps(content)
        return
    place = event["history_group"], event["history_id"]
    if not event.get("history_is_complete", True):
        yield _told(*place, is_complete=False)
    yield _told(*place, **content)


class ResumeMixin(_Resume):
    """For an async WebSocket consumer; put it first among the bases."""

    async def resume(self, group: str) -> None:
        """Joins ``group``, which has a history, where the client was.  Call it after ``accept()``.

        What the client has missed comes first, through the handlers of the consumer, and then what
        is new.  The consumer leaves the group when the client disconnects.

        Raises what ``group_add`` raises, but for a position that is none, which is the client's.
        """
        await self.send(await self._join(group))  # type: ignore[attr-defined]

    async def pass_on(self, event: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """Sends ``content`` to the client, as JSON, with the place of ``event`` in its history.

        ``event`` is what a handler has received.  Do not use the keys ``group``, ``position`` and
        ``is_complete`` in ``content``.
        """
        for text in _passed_on(event, content):
            await self.send(text)  # type: ignore[attr-defined]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        """Answers the script, which asks whether the connection is alive."""
        if text_data == PING:
            await self.send(PONG)  # type: ignore[attr-defined]
        else:
            await super().receive(text_data, bytes_data, **kwargs)  # type: ignore[misc]


class SyncResumeMixin(_Resume):
    """`ResumeMixin` for a sync WebSocket consumer."""

    def resume(self, group: str) -> None:
        """See `ResumeMixin.resume`."""
        self.send(async_to_sync(self._join)(group))  # type: ignore[attr-defined]

    def pass_on(self, event: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """See `ResumeMixin.pass_on`."""
        for text in _passed_on(event, content):
            self.send(text)  # type: ignore[attr-defined]

    def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        """See `ResumeMixin.receive`."""
        if text_data == PING:
            self.send(PONG)  # type: ignore[attr-defined]
        else:
            super().receive(text_data, bytes_data, **kwargs)  # type: ignore[misc]
