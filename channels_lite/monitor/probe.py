"""A message to oneself, by way of the table: for the health view and the admin's live page."""

from __future__ import annotations

import asyncio
import time
import uuid

from channels.layers import BaseChannelLayer

__all__ = ["DEADLINE", "PREFIX", "round_trip"]

#: Seconds within which it has to come back.
DEADLINE = 5.0
#: Of the channels that are our own business.
PREFIX = "channels-lite-"


async def round_trip(layer: BaseChannelLayer) -> float:
    """Seconds of a message to a plain channel, which goes the whole way: row, wake-up, claim.

    Raises ``asyncio.TimeoutError`` after ``DEADLINE``, and what ``send`` and ``receive`` raise.
    """
    return await asyncio.wait_for(_round_trip(layer), DEADLINE)


async def _round_trip(layer: BaseChannelLayer) -> float:
    channel = f"{PREFIX}probe.{uuid.uuid4().hex}"
    receiving = asyncio.ensure_future(layer.receive(channel))
    try:
        await asyncio.sleep(0)  # it waits, and is to be woken
        began = time.perf_counter()
        await layer.send(channel, {"type": "probe"})
        await receiving
        return time.perf_counter() - began
    finally:
        receiving.cancel()
