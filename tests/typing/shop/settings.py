"""For the plugin of django-stubs, which loads it."""

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["channels_lite"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "unused.sqlite3"}}
