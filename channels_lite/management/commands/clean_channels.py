"""``manage.py clean_channels``: deletes expired rows, and returns free space."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from channels_lite.layers.configured import our_layers
from channels_lite.models import Event, GroupMembership
from channels_lite.monitor import snapshot
from channels_lite.store import is_in_memory
from channels_lite.store.checkpoint import checkpoint
from channels_lite.store.connection import Source
from channels_lite.store.upkeep import INCREMENTAL, KEPT

__all__ = ["Command"]

# How often to try to move the log, which another process may be moving, and seconds in between.
TRIES = 10
PAUSE = 0.1


class Command(BaseCommand):
    """Safe while processes send and receive.  Receivers regularly do the same by themselves.

    A separate database for the channels returns its free pages step by step.  A database that also
    has other tables is rebuilt, and senders wait for that, unless its owner has set ``auto_vacuum``
    to INCREMENTAL.
    """

    help = "Delete expired messages and group memberships of all SQLite channel layers."

    def add_arguments(self, parser: CommandParser) -> None:
        """``--no-vacuum``, as in 0.4.0."""
        parser.add_argument(
            "--no-vacuum", action="store_true", help="Do not rebuild the file to make it smaller."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Cleans each layer.  An error is one line, and exit status 1."""
        layers = our_layers()
        if not layers:
            raise CommandError("CHANNEL_LAYERS has no layer of channels_lite.")
        for alias in layers:
            try:
                layer = channel_layers[alias]
                if not is_in_memory(layer.database):
                    snapshot.require_file(Source(layer.database))
                with self._progress(alias, layer.database) as advance:
                    kept = KEPT if options["no_vacuum"] else 0
                    deleted = async_to_sync(layer.clean_expired)(advance, kept)
                if not options["no_vacuum"] and not _shrink(layer.database):
                    self.stdout.write(
                        "another connection is reading the log; the file will shrink later"
                    )
            except (DatabaseError, ImproperlyConfigured) as error:
                raise CommandError(f"layer {alias!r}: {error}") from error
            self.stdout.write(f"layer {alias!r}: {deleted} expired rows deleted")

    @contextmanager
    def _progress(self, alias: str, database: str) -> Iterator[Callable[[int], None]]:
        """A progress bar, if the output is a terminal and rich is installed."""
        try:
            from rich.progress import Progress  # noqa: PLC0415 - an extra
        except ImportError:
            Progress = None  # type: ignore[assignment, misc]  # noqa: N806
        if Progress is None or not self.stdout.isatty():
            yield lambda seen: None
            return
        rows = sum(model.objects.using(database).count() for model in (Event, GroupMembership))
        with Progress(transient=True) as progress:
            task = progress.add_task(f"layer {alias!r}", total=rows)
            yield lambda seen: progress.update(task, completed=seen)


def _shrink(database: str) -> bool:
    """Shrinks the file to its content, after moving the log into it.

    Returns False if a connection has been reading the log for a second.
    """
    with connections[database].cursor() as cursor:
        cursor.execute("PRAGMA auto_vacuum")
        if cursor.fetchone() != (INCREMENTAL,):
            cursor.execute("VACUUM")
    source = Source(database)
    for _ in range(TRIES):
        if checkpoint(source):
            return True
        time.sleep(PAUSE)
    return False
