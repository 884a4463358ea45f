"""Settings of the processes: the layer and its CONFIG come by the environment."""

import json
import os
import sys

if os.environ.get("TEST_WITHOUT_EXTENSION"):
    sys.modules["channels_lite.wake._wakeup"] = None  # type: ignore[assignment]

if os.environ.get("TEST_WITHOUT_HOOKS"):
    from channels_lite.wake.hooks import Hooks

    Hooks._is_proven = lambda self, scratch: False  # type: ignore[method-assign]

if os.environ.get("TEST_INSTRUMENTED"):
    from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor

    # By the address in the object, as on a Python without load_extension.
    from channels_lite.wake.hooks import Hooks

    Hooks._extension_path = staticmethod(lambda: "nowhere")  # type: ignore[method-assign]
    SQLite3Instrumentor().instrument()

if os.environ.get("TEST_PATIENCE"):
    from channels_lite.relay import deadline

    deadline.DEADLINE = float(os.environ["TEST_PATIENCE"])

if os.environ.get("TEST_LARGEST"):
    from channels_lite.wake import datagrams

    datagrams.LARGEST = int(os.environ["TEST_LARGEST"])

if os.environ.get("TEST_AHEAD"):
    # Both clocks, as on another machine: seconds.
    import time

    from channels_lite import clock

    def _ahead(source, by=float(os.environ["TEST_AHEAD"])):  # type: ignore[no-untyped-def]
        return lambda: source() + by

    time.time, clock.ticks = _ahead(time.time), _ahead(clock.ticks)

FOLDER = os.environ["TEST_FOLDER"]
SECRET_KEY = "only for tests"
USE_TZ = True
# "channels" brings the command runworker.
INSTALLED_APPS = ["channels", "channels_lite"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("TEST_NAME", f"{FOLDER}/default.sqlite3"),
        "OPTIONS": json.loads(os.environ.get("TEST_OPTIONS", "{}")),
    },
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_lite.layers."
        + os.environ.get("TEST_LAYER", "notify.NotifyChannelLayer"),
        # A minute: what comes sooner has come by a wake-up.
        "CONFIG": {"polling_interval": 60} | json.loads(os.environ.get("TEST_CONFIG", "{}")),
    },
}
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"channels_lite": {"handlers": ["stderr"], "level": "INFO"}},
}
ROOT_URLCONF = "tests.processes.server"
ASGI_APPLICATION = "tests.processes.server.application"
