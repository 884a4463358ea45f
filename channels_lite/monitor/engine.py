"""Tries the engine of a relay with a separate connection, for the checks and the doctor.

It sends no message, and leaves no file beside the database.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from channels_lite.config import Config
from channels_lite.errors import StoreUnavailable
from channels_lite.relay import link_class, settings_of

__all__ = ["Tried", "try_out"]

# Seconds for all of it.
TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Tried:
    """The result."""

    #: The URL without the password; the engine's name and version, or "" if it is unavailable.
    url: str
    engine: str
    #: Seconds of one round trip.
    seconds: float
    #: What is wrong and how to fix it; "" if nothing is.
    fault: str
    #: Messages in all histories, and their groups; None: no group has one.
    kept: tuple[int, int] | None = None


class _Nobody:
    """Receives nothing, because nothing is subscribed to."""

    def came(self, subject: str, payload: bytes, reply: str) -> None:
        """Never called."""

    def job_came(self, channel: str, data: bytes, ttl: float) -> None:
        """Never called."""


async def try_out(config: Config) -> Tried:
    """Connects, makes one round trip, and closes.  Raises ``ImproperlyConfigured``."""
    settings = settings_of(
        "the layer", config.relay or "", config.relay_options, config.expiry, config.group_expiry
    ).of("0" * 32)
    link = link_class("the layer", settings)(settings, _Nobody())
    try:
        await asyncio.wait_for(link.open(()), TIMEOUT)
        began = time.perf_counter()
        await asyncio.wait_for(link.ping(), TIMEOUT)
        seconds = time.perf_counter() - began
        must_count = config.group_history and not link.lack
        kept = await asyncio.wait_for(link.kept(), TIMEOUT) if must_count else None
        return Tried(settings.shown, link.engine, seconds, link.lack, kept)
    except StoreUnavailable as error:
        return Tried(settings.shown, "", 0.0, str(error))
    except (TimeoutError, asyncio.TimeoutError):
        return Tried(settings.shown, "", 0.0, f"it did not answer within {TIMEOUT:.0f} s")
    finally:
        await link.close()
