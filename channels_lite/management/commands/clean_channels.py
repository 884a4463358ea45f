"""``manage.py clean_channels``: deletes what has expired, and gives the space back."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from channels_lite.config import our_layers

__all__ = ["Command"]


class Command(BaseCommand):
    """Safe while traffic runs; receivers do the same by themselves, but for the VACUUM."""

    help = "Delete expired messages and group memberships of all SQLite channel layers."

    def add_arguments(self, parser: CommandParser) -> None:
        """``--no-vacuum``, as in 0.4.0."""
        parser.add_argument(
            "--no-vacuum", action="store_true", help="Do not rebuild the file to make it smaller."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Cleans each layer; an error is one line, and exit status 1."""
        layers = our_layers()
        if not layers:
            raise CommandError("CHANNEL_LAYERS has no layer of channels_lite.")
        for alias in layers:
            try:
                layer = channel_layers[alias]
                deleted = async_to_sync(layer.clean_expired)()
                if not options["no_vacuum"]:
                    with connections[layer.database].cursor() as cursor:
                        cursor.execute("VACUUM")
            except (DatabaseError, ImproperlyConfigured) as error:
                raise CommandError(f"layer {alias!r}: {error}") from error
            self.stdout.write(f"layer {alias!r}: {deleted} expired rows deleted")
