"""Run with an installed wheel: a message goes from one process to another, by a wake-up alone."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import django
from channels.layers import get_channel_layer
from django.conf import settings
from django.core.management import call_command

from channels_lite.wake.hooks import hooks

# Seconds; the fallback look comes after both.
TIMEOUT, INTERVAL = 60, 600


def set_up(folder: str) -> None:
    """A project of two settings."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(folder) / "x.sqlite3"}
    layer = {
        "BACKEND": "channels_lite.layers.notify.NotifyChannelLayer",
        "CONFIG": {"polling_interval": INTERVAL},
    }
    settings.configure(
        INSTALLED_APPS=["channels_lite"],
        DATABASES={"default": database},
        CHANNEL_LAYERS={"default": layer},
        USE_TZ=True,
    )
    django.setup()


async def receive(folder: str) -> None:
    """Waits, has another process send, and exits with what failed."""
    layer = get_channel_layer()
    receiving = asyncio.create_task(layer.receive("jobs"))
    sending = await asyncio.create_subprocess_exec(sys.executable, __file__, folder)
    if await sending.wait():
        sys.exit("the sender failed")
    if await asyncio.wait_for(receiving, TIMEOUT) != {"type": "hello"}:
        sys.exit("another message came")
    await layer.close()


def main() -> None:
    """Without an argument the receiver, with a folder the sender."""
    if len(sys.argv) > 1:
        set_up(sys.argv[1])
        asyncio.run(get_channel_layer().send("jobs", {"type": "hello"}))
        return
    if hooks.reason:
        sys.exit(hooks.reason)
    with tempfile.TemporaryDirectory() as folder:
        set_up(folder)
        call_command("migrate", verbosity=0)
        asyncio.run(receive(folder))
    print("delivered")


if __name__ == "__main__":
    main()
