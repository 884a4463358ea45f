"""The tables that every layer, the hooks and your own code share.

``Event`` is a message that waits, ``GroupMembership`` a channel in a group; ``Boot``, of one row,
says by which clock they expire.  The layers
speak to both in SQL (``store/sql.py``); the models are for migrations, the admin and for
writing a message yourself::

    layer = get_channel_layer()
    Event.objects.create(channel_name="thumbnails", data=layer.serialize({"type": "make"}))
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone as django_timezone
from django.utils.dateparse import parse_datetime

from channels_lite import clock

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    # What is assigned, and what is read; at run time Django's field takes no parameters.
    _Field = models.Field[datetime | float, datetime]
else:
    _Field = models.Field

__all__ = ["Boot", "Event", "GroupMembership", "UnixTimeField"]


def _moment(text: str) -> datetime:
    # fromisoformat() knows the "Z" of Django's fixtures only from Python 3.11 on.
    moment = parse_datetime(text)
    if moment is None:
        raise ValidationError(f"{text!r} is neither a number nor an ISO 8601 date and time.")
    return moment


class UnixTimeField(_Field):
    """A moment, stored as seconds since 1970 UTC (REAL), seen as a ``datetime``.

    Django stores a ``DateTimeField`` on SQLite in UTC or in local time, as ``USE_TZ`` says, so
    two writers with different settings disagree by hours, and local time jumps twice a year.
    A number means the same to every process, and to raw SQL: ``unixepoch() + 60``.

    Accepts a ``datetime`` (naive ones are in Django's current time zone) or a number.
    """

    description = "Seconds since 1970 UTC"

    def get_internal_type(self) -> str:
        """Stored as Django stores a float."""
        return "FloatField"

    def get_prep_value(self, value: Any) -> float | None:
        """Seconds since 1970 from what an application assigned."""
        if isinstance(value, datetime):
            if django_timezone.is_naive(value):
                value = django_timezone.make_aware(value)
            return float(value.timestamp())
        return None if value is None else float(value)

    def from_db_value(
        self, value: float | None, expression: object, connection: BaseDatabaseWrapper
    ) -> datetime | None:
        """A ``datetime``: aware with ``USE_TZ``, else naive local time, as Django's own are."""
        if value is None:
            return None
        moment = datetime.fromtimestamp(value, tz=timezone.utc)
        return moment if settings.USE_TZ else django_timezone.make_naive(moment)

    def to_python(self, value: Any) -> Any:
        """From a form or a fixture: numbers and ISO 8601 text as well.

        Raises Django's ``ValidationError`` for other text.
        """
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return _moment(value)
        if isinstance(value, (int, float)):
            return self.from_db_value(value, None, None)  # type: ignore[arg-type]
        return value

    def value_to_string(self, obj: models.Model) -> str:
        """For fixtures."""
        return str(self.get_prep_value(self.value_from_object(obj)))


def in_a_minute() -> float:
    """When a message expires that does not say so: in 60 s, the layers' own default."""
    return clock.now() + 60.0


class Event(models.Model):
    """A message that waits for its receiver; the row is gone once it has been read.

    ``id`` grows in the order of commits and is never used again (Django's AUTOINCREMENT): a
    receiver asks for what is behind the last id it saw.
    """

    created_at = UnixTimeField(default=clock.now, editable=False)
    expires_at = UnixTimeField(default=in_a_minute)
    # Up to and including the "!" of a process-local channel.
    channel_name: models.CharField[str, str] = models.CharField(max_length=100)
    # Behind the "!": one part, or those of all members that a group has there, separated by commas.
    recipients: models.TextField[str, str] = models.TextField(default="", blank=True)
    data: models.BinaryField[bytes, bytes] = models.BinaryField()
    # To members of a group, which miss it when they are full; else its sender was told that it is
    # accepted.  Has its default in SQL, too.
    is_group: models.BooleanField[bool, bool] = models.BooleanField(default=False)

    class Meta:
        # Serves the look, the claim and the count; SQLite ends every index with the rowid, so
        # it is sorted by id within a channel.  tests/store/test_sql.py holds the query plans.
        indexes = (models.Index(name="channels_lite_event_channel", fields=["channel_name"]),)

    def __str__(self) -> str:
        return f"{self.channel_name}{self.recipients} #{self.pk}"


class GroupMembership(models.Model):
    """A channel in a group, until ``expires_at``."""

    group_name: models.CharField[str, str] = models.CharField(max_length=100)
    channel_name: models.CharField[str, str] = models.CharField(max_length=100)
    expires_at = UnixTimeField()
    joined_at = UnixTimeField(default=clock.now, editable=False)

    class Meta:
        # Its index also serves group_send.
        unique_together = (("group_name", "channel_name"),)

    def __str__(self) -> str:
        return f"{self.channel_name} in {self.group_name}"


class Boot(models.Model):
    """When the machine was last started, which is where all times are counted from.

    See `channels_lite.clock`.  And the last ``flush()``: messages with a lower id, and those
    without a row that are older, are void in whosever memory.
    """

    boot_id = models.CharField(max_length=36)
    began_at = UnixTimeField()
    flushed_id = models.BigIntegerField(default=0)
    flushed_at = UnixTimeField(default=0)
    # A random number, new with each row: another one, and ids may have begun again.  Has its
    # default in SQL, too.
    generation = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.boot_id} {self.began_at}"
