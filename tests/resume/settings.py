"""Those of the other processes, with groups that have a history."""

from tests.processes.settings import *  # noqa: F403
from tests.processes.settings import CHANNEL_LAYERS, INSTALLED_APPS

ROOT_URLCONF = "tests.resume.server"
ASGI_APPLICATION = "tests.resume.server.application"
INSTALLED_APPS += ["django.contrib.staticfiles"]
STATIC_URL = "/static/"
CHANNEL_LAYERS["default"]["CONFIG"]["group_history"] = {
    "short*": {"messages": 3, "seconds": 3600},
    "room*": {"messages": 1_000_000, "seconds": 3600},
}
