"""Three kinds of events: requests, WebSockets, and jobs from the channel "jobs"."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
http = get_asgi_application()  # before the imports below, which need the apps

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import re_path  # noqa: E402

from chat.consumers import JobConsumer, RoomConsumer  # noqa: E402
from chat.urls import ROOM  # noqa: E402

sockets = URLRouter([re_path(rf"^ws/{ROOM}/$", RoomConsumer.as_asgi())])
application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": AllowedHostsOriginValidator(sockets),
        "channel": ChannelNameRouter({"jobs": JobConsumer.as_asgi()}),
    }
)
