"""``manage.py dumpdata``: Django's, without messages and memberships unless they are asked for.

They live for seconds, and ``loaddata`` would deliver them again.
"""

from __future__ import annotations

from typing import Any

from django.core.management.commands import dumpdata

__all__ = ["Command"]

APP = "channels_lite"


class Command(dumpdata.Command):
    """Name ``channels_lite``, or a model of it, to have them."""

    def handle(self, *app_labels: str, **options: Any) -> None:
        """Adds the app to what is excluded if others are dumped."""
        if not any(label.partition(".")[0] == APP for label in app_labels):
            options["exclude"] = [*(options["exclude"] or ()), APP]
        super().handle(*app_labels, **options)
