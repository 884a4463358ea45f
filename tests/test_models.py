"""The models' times, and rows that a project writes itself."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from django.core import serializers
from django.db import connections
from django.utils import timezone as django_timezone

from channels_lite import clock
from channels_lite.models import Event, GroupMembership, UnixTimeField

MOMENT = datetime(2030, 7, 1, 12, 30, 15, 250_000, tzinfo=timezone.utc)


@pytest.fixture(params=[True, False], ids=["UTC", "local time"], autouse=True)
def use_tz(request, settings):
    """Both of Django's ways to tell the time, in a zone that is hours from UTC."""
    settings.TIME_ZONE = "America/New_York"
    settings.USE_TZ = request.param
    return request.param


def stored() -> list[object]:
    """The column as SQLite has it, and its type."""
    with connections["channels"].cursor() as cursor:
        cursor.execute("SELECT expires_at, typeof(expires_at) FROM channels_lite_event")
        return cursor.fetchall()


@pytest.mark.parametrize(
    "value",
    [
        MOMENT,
        MOMENT.astimezone(timezone(timedelta(hours=9))),
        MOMENT.timestamp(),
    ],
    ids=["UTC", "another zone", "number"],
)
def test_every_form_is_the_same_number(database, value):
    """Aware datetimes of any zone, and numbers, are stored as seconds since 1970 UTC."""
    Event.objects.create(channel_name="channel", data=b"", expires_at=value)
    assert stored() == [(MOMENT.timestamp(), "real")]


def test_naive_datetime_is_in_the_current_zone(database):
    """A naive datetime is local time, as everywhere in Django."""
    naive = django_timezone.make_naive(MOMENT)
    Event.objects.create(channel_name="channel", data=b"", expires_at=naive)
    assert stored() == [(MOMENT.timestamp(), "real")]


def test_read_as_django_reads_its_own(database, use_tz):
    """Read back it is a datetime: aware with USE_TZ, else naive local time."""
    Event.objects.create(channel_name="channel", data=b"", expires_at=MOMENT)
    moment = Event.objects.get().expires_at
    assert django_timezone.is_aware(moment) is use_tz
    assert moment == (MOMENT if use_tz else django_timezone.make_naive(MOMENT))


def test_looked_up_by_datetime(database):
    """Filters take datetimes, and compare them as moments."""
    Event.objects.create(channel_name="channel", data=b"", expires_at=MOMENT)
    assert Event.objects.filter(expires_at__gt=MOMENT - timedelta(seconds=1)).exists()
    assert not Event.objects.filter(expires_at__gt=MOMENT).exists()


def test_fixture_round_trip(database):
    """dumpdata and loaddata keep the moment."""
    GroupMembership.objects.create(
        group_name="g", channel_name="c", expires_at=MOMENT, joined_at=MOMENT
    )
    before = GroupMembership.objects.values_list("expires_at", "joined_at").get()
    dumped = serializers.serialize("json", GroupMembership.objects.all())
    GroupMembership.objects.all().delete()
    for loaded in serializers.deserialize("json", dumped, using="channels"):
        loaded.save(using="channels")
    assert GroupMembership.objects.values_list("expires_at", "joined_at").get() == before


@pytest.mark.parametrize("text", ["1909139415.25", "2030-07-01T12:30:15.250+00:00"])
def test_text_is_parsed(text):
    """Forms and fixtures may give a number or ISO 8601."""
    field = UnixTimeField()
    assert field.get_prep_value(field.to_python(text)) == MOMENT.timestamp()


def test_row_lives_a_minute_by_default(database, monkeypatch):
    """Without expires_at a row expires 60 s after its creation, by the clock of the layers."""
    monkeypatch.setattr(clock, "_latest", clock.Clock())
    for began_at in (time.time() - clock.ticks(), -clock.ticks()):
        Event.objects.all().delete()
        clock.Clock().set(began_at)
        before = clock.now()
        Event.objects.create(channel_name="channel", data=b"")
        assert before + 60 <= stored()[0][0] <= clock.now() + 60


def test_rows_say_what_they_are():
    """The admin shows channel, group and id."""
    assert str(Event(pk=3, channel_name="p!", recipients="a,b")) == "p!a,b #3"
    assert str(GroupMembership(group_name="g", channel_name="c")) == "c in g"
