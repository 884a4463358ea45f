"""``channels_lite.urls``: is the process alive, and do messages come through.

For load balancers and orchestrators, so anybody may ask: answers name layers, and no path.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, JsonResponse

from channels_lite.config import our_layers
from channels_lite.errors import StoreUnavailable

__all__ = ["live", "ready"]

logger = logging.getLogger(__name__)

# Seconds within which a message to oneself has to come back, by way of the table.
DEADLINE = 5.0


async def live(request: HttpRequest) -> JsonResponse:
    """200: the process answers."""
    return JsonResponse({"status": "ok"})


async def ready(request: HttpRequest) -> JsonResponse:
    """200 if a message through each layer comes back within 5 s, else 503 and which does not.

    ``{"status": "ok" or "failed", "layers": {alias: {"status": ..., "seconds": ... or "reason":
    ...}}}``.  The reason is short; the log has the rest.
    """
    aliases = list(our_layers())
    results = dict(zip(aliases, await asyncio.gather(*map(_try, aliases)), strict=True))
    is_ok = all(each["status"] == "ok" for each in results.values())
    return JsonResponse(
        {"status": "ok" if is_ok else "failed", "layers": results}, status=200 if is_ok else 503
    )


async def _try(alias: str) -> dict[str, Any]:
    began = time.monotonic()
    # A plain channel's message goes the whole way: a row, a wake-up, a claim.
    channel = f"channels-lite-health.{uuid.uuid4().hex}"
    try:
        layer = channel_layers[alias]
        receiving = asyncio.ensure_future(layer.receive(channel))
        try:
            await asyncio.sleep(0)  # it waits, and is to be woken
            await layer.send(channel, {"type": "health"})
            await asyncio.wait_for(receiving, DEADLINE)
        finally:
            receiving.cancel()
    except asyncio.TimeoutError:
        return {"status": "failed", "reason": f"no message came back within {DEADLINE:.0f} s"}
    except (ChannelFull, ImproperlyConfigured, StoreUnavailable) as error:
        logger.error("layer %r is not ready: %s", alias, error)
        return {"status": "failed", "reason": type(error).__name__}
    return {"status": "ok", "seconds": round(time.monotonic() - began, 6)}
