"""A project with Django's admin, as ``startproject`` makes it, and one SQLite file for all."""

from tests.processes.settings import *  # noqa: F403

INSTALLED_APPS = [
    "channels_lite",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
STATIC_URL = "static/"
ROOT_URLCONF = "tests.admin.urls"
