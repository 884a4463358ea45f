"""``channels_lite.urls``: whether the process is alive, and whether messages arrive.

For load balancers and orchestrators, so there is no permission check: answers name layers, but no
path.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, JsonResponse

from channels_lite.errors import StoreUnavailable
from channels_lite.layers.configured import our_layers
from channels_lite.monitor import probe

__all__ = ["live", "ready"]

logger = logging.getLogger(__name__)


async def live(request: HttpRequest) -> JsonResponse:
    """200: the process answers."""
    return JsonResponse({"status": "ok"})


async def ready(request: HttpRequest) -> JsonResponse:
    """200 if a message through each layer comes back within 5 s, else 503.

    ``{"status": "ok" or "failed", "layers": {alias: {"status": ..., "seconds": ... or "reason":
    ...}}}``.  The reason is short; the log has the details.  Also 503 if no layer is ours.

    With a relay, the message stays on the node.  With ``?relay`` in the URL it goes through the
    engine, so it fails while the engine is unavailable.
    """
    aliases = list(our_layers())
    tries = (_try(alias, by_relay="relay" in request.GET) for alias in aliases)
    results = dict(zip(aliases, await asyncio.gather(*tries), strict=True))
    is_ok = bool(results) and all(each["status"] == "ok" for each in results.values())
    return JsonResponse(
        {"status": "ok" if is_ok else "failed", "layers": results}, status=200 if is_ok else 503
    )


async def _try(alias: str, *, by_relay: bool) -> dict[str, Any]:
    try:
        seconds = await probe.round_trip(channel_layers[alias], by_relay=by_relay)
    except asyncio.TimeoutError:
        return {"status": "failed", "reason": f"no message came back in {probe.DEADLINE:.0f} s"}
    except (ChannelFull, ImproperlyConfigured, StoreUnavailable) as error:
        logger.error("layer %r is not ready: %s", alias, error)
        return {"status": "failed", "reason": type(error).__name__}
    return {"status": "ok", "seconds": round(seconds, 6)}
