"""System checks: what is wrong with the settings, before the first message.

``channels_lite.E001`` a CONFIG that the layer would refuse; ``E002`` an in-memory database outside
of tests.  Missing tables are no check's matter, for ``migrate`` runs the checks before it makes
them: the first message raises ``ImproperlyConfigured``.
"""

from __future__ import annotations

from typing import Any

from channels.layers import channel_layers
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test.utils import _TestState

from channels_lite.config import layer_databases, our_layers

__all__ = ["check_databases", "check_layers"]


@register()
def check_layers(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E001: makes each layer of ours, as Channels will."""
    errors: list[CheckMessage] = []
    for alias in our_layers():
        try:
            channel_layers[alias]
        except (ImproperlyConfigured, TypeError) as error:
            hint = f"Mend CHANNEL_LAYERS[{alias!r}] in your settings."
            errors.append(Error(str(error), hint=hint, id="channels_lite.E001"))
    return errors


@register()
def check_databases(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """E002: each process would have an in-memory database of its own."""
    if hasattr(_TestState, "saved_data"):  # Django's tests run, and have made it so
        return []
    return [
        Error(
            f"Database {alias!r}, which a channel layer uses, is in memory: "
            "processes would not hear each other.",
            hint=f'Give DATABASES[{alias!r}]["NAME"] a file.',
            id="channels_lite.E002",
        )
        for alias in layer_databases()
        if alias in settings.DATABASES
        and connections[alias].vendor == "sqlite"
        and connections[alias].is_in_memory_db()  # type: ignore[attr-defined]
    ]
