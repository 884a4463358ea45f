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

    # The types of assigned and of read values; at run time Django's field takes no parameters.
    _Field = models.Field[datetime | float, datetime]
else:
    _Field = models.Field

__all__ = ["Boot", "Event", "GroupHistory", "GroupMembership", "GroupMessage", "UnixTimeField"]


def _moment(text: str) -> datetime:
    # fromisoformat() knows the "Z" of Django's fixtures only from Python 3.11 on.
    moment = parse_datetime(text)
    if moment is None:
        raise ValidationError(f"{text!r} is neither a number nor an ISO 8601 date and time.")
    return moment


class UnixTimeField(_Field):
    """A moment, stored as seconds since 1970 UTC (REAL), and read as a ``datetime``.

    Django stores a ``DateTimeField`` on SQLite in UTC or in local time, depending on ``USE_TZ``.
    Two writers with different settings would disagree by hours, and local time jumps twice a year.
    A number means the same to every process, and to raw SQL: ``unixepoch() + 60``.

    Accepts a ``datetime`` (naive ones are in Django's current time zone) or a number.
    """

    description = "Seconds since 1970 UTC"

    def get_internal_type(self) -> str:
        """Stored as Django stores a float."""
        return "FloatField"

    def get_prep_value(self, value: Any) -> float | None:
        """Seconds since 1970, from the value that an application assigned."""
        if isinstance(value, datetime):
            if django_timezone.is_naive(value):
                value = django_timezone.make_aware(value)
            return float(value.timestamp())
        return None if value is None else float(value)

    def from_db_value(
        self, value: float | None, expression: object, connection: BaseDatabaseWrapper
    ) -> datetime | None:
        """A ``datetime``: aware with ``USE_TZ``, else naive local time, like Django's own."""
        if value is None:
            return None
        moment = datetime.fromtimestamp(value, tz=timezone.utc)
        return moment if settings.USE_TZ else django_timezone.make_naive(moment)

    def to_python(self, value: Any) -> Any:
        """Converts input of a form or a fixture, which may be a number or ISO 8601 text.

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
    """The default expiry of a message: in 60 s, as in the layers."""
    return clock.now() + 60.0


class Event(models.Model):
    """A message that waits for its receiver.  The row is deleted after it was read.

    ``id`` grows in the order of commits and is never reused (Django's AUTOINCREMENT): a receiver
    reads the rows after the last id that it has read.
    """

    created_at = UnixTimeField(default=clock.now, editable=False)
    expires_at = UnixTimeField(default=in_a_minute)
    # Up to and including the "!" of a process-local channel.
    channel_name: models.CharField[str, str] = models.CharField(max_length=100)
    # The part after the "!"; or those of all the group's members in that process, with commas.
    recipients: models.TextField[str, str] = models.TextField(default="", blank=True)
    data: models.BinaryField[bytes, bytes] = models.BinaryField()
    # Whether it is for members of a group, which miss it if they are full.  Otherwise the sender
    # was told that it is accepted.  The default is also in SQL.
    is_group: models.BooleanField[bool, bool] = models.BooleanField(default=False)

    class Meta:
        # Used by the look, the claim and the count.  SQLite ends every index with the rowid, so
        # it is sorted by id within a channel.  tests/store/test_sql.py checks the query plans.
        indexes = (models.Index(name="channels_lite_event_channel", fields=["channel_name"]),)

    def __str__(self) -> str:
        return f"{self.channel_name}{self.recipients} #{self.pk}"


class GroupMembership(models.Model):
    """A channel in a group, until ``expires_at``."""

    group_name: models.CharField[str, str] = models.CharField(max_length=100)
    channel_name: models.CharField[str, str] = models.CharField(max_length=100)
    expires_at = UnixTimeField()
    joined_at = UnixTimeField(default=clock.now, editable=False)
    # In a group with a history: the id after which the channel gets messages.  None: those that
    # are sent after its process has noticed the membership.
    after_id: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(
        null=True, default=None, editable=False
    )

    class Meta:
        # group_send uses its index, too.
        unique_together = (("group_name", "channel_name"),)

    def __str__(self) -> str:
        return f"{self.channel_name} in {self.group_name}"


class GroupMessage(models.Model):
    """A message in the history of a group, which members receive from here.

    With a relay, histories are in its engine, and rows are not read.

    ``id`` grows in the order of commits, and is never reused.  A row is deleted when the group has
    enough newer ones, or when it is too old (``group_history``).  Do not delete single rows: the
    layer could not tell clients that they are gone.
    """

    group_name: models.CharField[str, str] = models.CharField(max_length=100)
    created_at = UnixTimeField(default=clock.now, editable=False)
    data: models.BinaryField[bytes, bytes] = models.BinaryField()

    class Meta:
        # SQLite ends every index with the rowid, so it is sorted by id within a group.
        indexes = (models.Index(name="channels_lite_history_group", fields=["group_name"]),)

    def __str__(self) -> str:
        return f"{self.group_name} #{self.pk}"


class GroupHistory(models.Model):
    """Up to where the history of a group was deleted.

    There is a row if anything was deleted, or if a channel has joined before the first message:
    then ``trimmed_id`` is 0, and the stamp is the time of that.
    """

    group_name = models.CharField(max_length=100, primary_key=True)
    trimmed_id = models.BigIntegerField(default=0)
    stamp = models.BigIntegerField(default=0)
    changed_at = UnixTimeField(default=clock.now, editable=False)

    class Meta:
        verbose_name_plural = "group histories"

    def __str__(self) -> str:
        return f"{self.group_name} after #{self.trimmed_id}"


class Boot(models.Model):
    """When the machine last booted, which is the origin of all times: see `channels_lite.clock`.

    Also the last ``flush()``: it voids messages with a lower id, and older messages without a row,
    in the memory of every process.
    """

    boot_id = models.CharField(max_length=36)
    began_at = UnixTimeField()
    flushed_id = models.BigIntegerField(default=0)
    flushed_at = UnixTimeField(default=0)
    # A number that is new with each row: if it changes, ids may have started again.  The default is
    # also in SQL.
    generation = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.boot_id} {self.began_at}"
