"""``manage.py dumpdata``: Django's command, without messages and memberships unless you name them.

They are valid only for seconds, and ``loaddata`` would deliver them again.
"""

from __future__ import annotations

from typing import Any

from django.core.management.commands import dumpdata

__all__ = ["Command"]

APP = "channels_lite"


class Command(dumpdata.Command):
    """Dumps messages and memberships only if ``channels_lite`` or a model of it is named."""

    def handle(self, *app_labels: str, **options: Any) -> None:
        """Excludes the app, unless it is named."""
        if not any(label.partition(".")[0] == APP for label in app_labels):
            options["exclude"] = [*(options["exclude"] or ()), APP]
        super().handle(*app_labels, **options)
