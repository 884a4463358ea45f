"""The recommended set-up: the channels in a database of their own, beside the project's."""

import os
from pathlib import Path

BASE = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EXAMPLE_DATA", BASE / "data"))
DATA.mkdir(parents=True, exist_ok=True)

SECRET_KEY = "an example on loopback, with nothing to protect"
# `make demo` sets it: a page may then restart the process that serves it.
DEBUG = "CHAT_DEBUG" in os.environ
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
USE_TZ = True
ROOT_URLCONF = "chat.urls"
ASGI_APPLICATION = "chat.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# "channels" brings the command runworker.
INSTALLED_APPS = ["channels", "channels_lite", "chat"]
MIDDLEWARE = [
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA / "db.sqlite3"},
    "channels": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA / "channels.sqlite3"},
}
DATABASE_ROUTERS = ["channels_lite.router.ChannelsRouter"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_lite.layers.notify.NotifyChannelLayer",
        "CONFIG": {"database": "channels"},
    },
}
# With `NODES=2 make demo`, each node has its own databases, as on its own machine.
NODE = os.environ.get("CHAT_NODE", "")
if "CHAT_RELAY" in os.environ:
    CHANNEL_LAYERS["default"]["CONFIG"]["relay"] = os.environ["CHAT_RELAY"]
else:
    # Rooms remember what was said for a day; there is no history beside a relay.
    remembered = {"messages": 200, "seconds": 86400}
    CHANNEL_LAYERS["default"]["CONFIG"]["group_history"] = {"room.*": remembered}
HAS_HISTORY = "group_history" in CHANNEL_LAYERS["default"]["CONFIG"]
# Without DEBUG, Django would mail errors instead of showing them.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler", "level": "WARNING"}},
    "root": {"handlers": ["console"]},
}
