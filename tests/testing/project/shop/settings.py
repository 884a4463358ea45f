"""The project that docs/testing.md tests; its databases are those of the page."""

from pathlib import Path

BASE_DIR = Path(__file__).parent.parent
SECRET_KEY = "only for tests"
USE_TZ = True
ROOT_URLCONF = "shop.site"
ASGI_APPLICATION = "shop.site.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["channels_lite", "shop"]
DATABASE_ROUTERS = ["channels_lite.router.ChannelsRouter"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_lite.layers.notify.NotifyChannelLayer",
        "CONFIG": {"database": "channels"},
    },
}

exec((BASE_DIR / "databases.py").read_text())
