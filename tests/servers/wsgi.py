"""A WSGI site that has sent a message before its server forks, as an AppConfig's ready() may."""

from __future__ import annotations

import threading

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from tests.processes.server import wsgi as application

__all__ = ["application"]

async_to_sync(get_channel_layer().group_send)("nobody", {"type": "site.loaded"})
# uWSGI's master forks without Python's lock, which the last thread of asgiref may still hold.
for thread in threading.enumerate():
    if thread is not threading.current_thread() and not thread.daemon:
        thread.join()
