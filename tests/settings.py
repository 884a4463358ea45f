"""A project with the recommended set-up; each test gives the files of its own."""

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["channels_lite"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "unused-default.sqlite3"},
    "channels": {"ENGINE": "django.db.backends.sqlite3", "NAME": "unused-channels.sqlite3"},
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_lite.layers.notify.NotifyChannelLayer",
        "CONFIG": {"database": "channels"},
    },
}
DATABASE_ROUTERS = ["channels_lite.router.ChannelsRouter"]
