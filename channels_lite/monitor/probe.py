"""A message through the table to its own sender, for the health view and the admin's live page."""

from __future__ import annotations

import asyncio
import time
import uuid

from channels_lite.layers.base import BaseSQLiteChannelLayer

__all__ = ["DEADLINE", "PREFIX", "round_trip"]

#: Seconds within which the message must come back.
DEADLINE = 5.0
#: Prefix of the channels that channels-lite uses itself.
PREFIX = "channels-lite-"


async def round_trip(layer: BaseSQLiteChannelLayer, *, by_relay: bool = True) -> float:
    """Seconds that a message to a plain channel takes, through row, wake-up and claim.

    With a relay, the message goes through a queue of the engine.  If ``by_relay`` is false, it goes
    to a group, whose member is in the database, and stays on the node.

    Raises ``asyncio.TimeoutError`` after ``DEADLINE``, and what ``send`` and ``receive`` raise.
    """
    stays = layer.config.relay is not None and not by_relay
    return await asyncio.wait_for(_on_node(layer) if stays else _round_trip(layer), DEADLINE)


async def _on_node(layer: BaseSQLiteChannelLayer) -> float:
    channel = await layer.new_channel(f"{PREFIX}probe")
    group = channel.partition("!")[0]
    began = time.perf_counter()
    await layer.group_add(group, channel)
    try:
        await layer.group_send(group, {"type": "probe"})
        await layer.receive(channel)
        return time.perf_counter() - began
    finally:
        await layer.group_discard(group, channel)


async def _round_trip(layer: BaseSQLiteChannelLayer) -> float:
    channel = f"{PREFIX}probe.{uuid.uuid4().hex}"
    receiving = asyncio.ensure_future(layer.receive(channel))
    try:
        await asyncio.sleep(0)  # now it waits, and the message must wake it
        began = time.perf_counter()
        await layer.send(channel, {"type": "probe"})
        await receiving
        return time.perf_counter() - began
    finally:
        receiving.cancel()
