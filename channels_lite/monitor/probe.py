"""A message through the table to its own sender, for the health view and the admin's live page."""

from __future__ import annotations

import asyncio
import time
import uuid

from channels.layers import BaseChannelLayer

__all__ = ["DEADLINE", "PREFIX", "round_trip"]

#: Seconds within which the message must come back.
DEADLINE = 5.0
#: Prefix of the channels that channels-lite uses itself.
PREFIX = "channels-lite-"


async def round_trip(layer: BaseChannelLayer) -> float:
    """Seconds that a message to a plain channel takes, through row, wake-up and claim.

    Raises ``asyncio.TimeoutError`` after ``DEADLINE``, and what ``send`` and ``receive`` raise.
    """
    return await asyncio.wait_for(_round_trip(layer), DEADLINE)


async def _round_trip(layer: BaseChannelLayer) -> float:
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
