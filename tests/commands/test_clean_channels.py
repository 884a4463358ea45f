"""manage.py clean_channels."""

from __future__ import annotations

import asyncio
import io
import time

import pytest
from channels.layers import channel_layers
from django.core.management import CommandError, call_command

from channels_lite.models import Event, GroupMembership
from tests.conftest import LAYERS, use_database


@pytest.fixture(params=["core", "aio", "notify"])
def configured(request, settings, database):
    """CHANNEL_LAYERS with that layer."""
    backend = f"{LAYERS[request.param].__module__}.{LAYERS[request.param].__name__}"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"database": "channels"}}}
    yield
    asyncio.run(channel_layers["default"].close())


@pytest.mark.parametrize("options", [{}, {"no_vacuum": True}])
def test_expired_rows_are_deleted(configured, options):
    """What has expired goes, more of it than one step takes, and what waits stays."""
    now = time.time()
    Event.objects.bulk_create(
        Event(channel_name="channel", data=b"", expires_at=now - 1) for _ in range(1200)
    )
    kept = Event.objects.create(channel_name="channel", data=b"")
    for name, expires_at in (("old", now - 1), ("new", now + 60)):
        GroupMembership.objects.create(group_name=name, channel_name="c", expires_at=expires_at)
    said = io.StringIO()
    call_command("clean_channels", stdout=said, **options)
    assert said.getvalue() == "layer 'default': 1201 expired rows deleted\n"
    assert list(Event.objects.all()) == [kept]
    assert [each.group_name for each in GroupMembership.objects.all()] == ["new"]


def test_missing_tables_are_one_line(configured, tmp_path):
    """Without tables the command fails with the mend."""
    use_database("channels", tmp_path / "empty.sqlite3")
    with pytest.raises(CommandError, match=r"run manage\.py migrate --database=channels"):
        call_command("clean_channels")


def test_foreign_layers_are_none_of_ours(settings):
    """Without a layer of this package there is nothing to clean."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with pytest.raises(CommandError, match="no layer of channels_lite"):
        call_command("clean_channels")
