"""The Django app: hooks connections to the databases of layers, and registers the checks."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.backends.signals import connection_created

__all__ = ["ChannelsLiteConfig"]


class ChannelsLiteConfig(AppConfig):
    """Put ``"channels_lite"`` into ``INSTALLED_APPS``."""

    name = "channels_lite"
    verbose_name = "Channels on SQLite"
    # Set here, so that a project's DEFAULT_AUTO_FIELD does not require a migration of this app.
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Runs once, when Django starts."""
        from channels_lite import checks  # noqa: F401, PLC0415 - registers them
        from channels_lite.store.django import remember  # noqa: PLC0415 - listens from now on

        connection_created.connect(hook_connection, dispatch_uid="channels_lite.hook")
        for connection in connections.all():
            if connection.connection is not None:  # another app has opened it already
                remember(connection)
                hook_connection(connection)


def hook_connection(connection: Any, **kwargs: object) -> None:
    """Makes rows that Django inserts on ``connection`` wake their receivers."""
    if connection.vendor != "sqlite":
        return
    from channels_lite.layers.configured import (  # noqa: PLC0415 - settings must be ready
        databases_in_use,
        layer_databases,
    )
    from channels_lite.wake.hooks import attach_django  # noqa: PLC0415

    if connection.alias in databases_in_use() or connection.alias in layer_databases():
        attach_django(connection)
