"""manage.py dumpdata, Django's own in a project with this app."""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import call_command

from channels_lite.models import Event


@pytest.mark.parametrize(
    ("labels", "count"), [((), 0), (("channels_lite",), 1), (("channels_lite.Event",), 1)]
)
def test_messages_are_dumped_only_where_they_are_named(database, labels, count):
    """Else loaddata, perhaps days later, would deliver them again."""
    Event.objects.using("channels").create(channel_name="jobs", data=b"")
    out = io.StringIO()
    call_command("dumpdata", *labels, database="channels", stdout=out)
    dumped = [each["model"] for each in json.loads(out.getvalue())]
    assert dumped.count("channels_lite.event") == count
    assert bool(dumped) == bool(labels)
