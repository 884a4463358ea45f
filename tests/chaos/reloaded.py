"""Receives under Django's autoreloader, as ``runserver`` does: ``python -m ... WATCHED``.

Says its process and its name when both the receiver and the reloader are at work, and then its
process and what it receives.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django

django.setup()

from asgiref.sync import async_to_sync  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from django.utils import autoreload  # noqa: E402

layer = get_channel_layer()
is_watching = threading.Event()


class Reloader(autoreload.StatReloader):
    SLEEP_TIME = 0.1

    def snapshot_files(self) -> Iterator[Any]:
        yield from super().snapshot_files()
        is_watching.set()  # what changes from now on is noticed


async def listen(channel: str) -> asyncio.Task[dict[str, Any]]:
    receiving = asyncio.create_task(layer.receive(channel))
    while not layer._engine.mailboxes.is_served(channel):  # noqa: ASYNC110 - it is a few iterations
        await asyncio.sleep(0)
    return receiving


async def use() -> None:
    """All there is, once."""
    channel = await layer.new_channel()
    receiving = await listen(channel)
    await layer.send(channel, {})
    await receiving


async def serve() -> None:
    receiving = await listen("jobs")
    await asyncio.to_thread(is_watching.wait)
    print(os.getpid(), layer.client_prefix, flush=True)
    message = await receiving
    print(os.getpid(), message["number"], flush=True)
    await layer.receive("jobs")


def watch(sender: Reloader, **kwargs: object) -> None:
    sender.extra_files.add(Path(sys.argv[1]))


if __name__ == "__main__":
    # The process that starts the others uses the layer as well, and Django lets them inherit.
    async_to_sync(use)()
    autoreload.get_reloader = Reloader
    autoreload.autoreload_started.connect(watch)
    autoreload.run_with_reloader(lambda: asyncio.run(serve()))
