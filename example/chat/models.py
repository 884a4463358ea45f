"""What was said, kept in the database "default"; the channel layer has its own."""

from __future__ import annotations

import os
from typing import Any

from django.db import models


class Message(models.Model):
    """One line of a room."""

    room = models.CharField(max_length=40, db_index=True)
    name = models.CharField(max_length=30)
    text = models.CharField(max_length=500)
    #: How it came: "websocket" or "post".
    via = models.CharField(max_length=10)
    #: The server process that took it.
    pid = models.PositiveIntegerField(default=os.getpid)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"

    def as_dict(self) -> dict[str, Any]:
        """What the page shows; also the payload sent through the channel layer."""
        return {
            "id": self.pk,
            "name": self.name,
            "text": self.text,
            "via": self.via,
            "pid": self.pid,
            "at": self.created_at.timestamp() * 1000,
        }


def group_of(room: str) -> str:
    """The group in which everybody in ``room`` is.  It has a history."""
    return f"room.{room}"


def probes_of(room: str) -> str:
    """The group for the probes of the latency, which nobody has to catch up with."""
    return f"probes.{room}"


def clean(name: str, text: str) -> dict[str, str] | None:
    """Both within what ``Message`` holds; None if nothing was said."""
    text = text.strip()[:500]
    return {"name": name.strip()[:30] or "Somebody", "text": text} if text else None
