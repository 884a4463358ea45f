"""A project with the recommended set-up: the channels in a database of their own."""

import os
from pathlib import Path

BASE = Path(os.environ.get("CHANNELS_LITE_TEST_DIR", "/tmp/channels-lite-tests"))
SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["channels_lite"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE / "default.sqlite3"},
    "channels": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE / "channels.sqlite3"},
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": f"channels_lite.layers.{os.environ.get('LAYER', 'notify.NotifyChannelLayer')}",
        "CONFIG": {"database": "channels"},
    },
}
DATABASE_ROUTERS = ["channels_lite.router.ChannelsRouter"]
