"""``channels_lite.router.ChannelsRouter``, for messages in a separate database."""

from __future__ import annotations

from typing import Any

from django.db import models

from channels_lite.layers.configured import layer_databases

__all__ = ["ChannelsRouter"]


class ChannelsRouter:
    """Routes the models of ``channels_lite`` to the database that the layers' CONFIG names.

    If layers use several databases, each gets the tables.  The models are read and written in the
    database of the layer ``"default"``; ``using()`` selects another one.
    """

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str | None:
        """The default layer's database, for our models."""
        if model._meta.app_label != "channels_lite":
            return None
        return next(iter(layer_databases()), None)

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Allows our tables in the layers' databases only."""
        if app_label != "channels_lite":
            return None
        databases = layer_databases()
        return db in databases if databases else None
