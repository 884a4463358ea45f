"""Wrong settings fail at the start, and say what is wrong and how to fix it."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_lite import checks
from channels_lite.config import Config
from channels_lite.layers.configured import layer_databases
from channels_lite.layers.notify import NotifyChannelLayer
from channels_lite.models import Event
from channels_lite.router import ChannelsRouter
from tests.conftest import TIMEOUT, use_database


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"capacty": 3}, "unknown CONFIG key 'capacty'; did you mean 'capacity'?"),
        ({"capacity": "3"}, r"CONFIG\['capacity'\] must be a positive integer, but is '3'"),
        ({"capacity": True}, "must be a positive integer"),
        ({"expiry": 0}, "must be a positive number of seconds"),
        ({"channel_capacity": {"a*": 0}}, "must be a dict that maps globs or compiled patterns"),
        (
            {"group_history": {"a*": {"messages": 0, "seconds": 1}}},
            "must be a dict that maps globs",
        ),
        ({"group_history": {"a*": {"messages": 1, "seconds": 0}}}, "both positive"),
        ({"group_history": {"a*": {"messages": 1}}}, "both positive"),
        ({"group_history": ["a*"]}, "both positive"),
        ({"symmetric_encryption_keys": "secret"}, "must be a list of strings or bytes"),
        ({"database": "elsewhere"}, "which is not in DATABASES; its aliases: channels, default"),
        ({"serializer_format": "pickle"}, "no serializer 'pickle'; there are json, msgpack"),
    ],
)
def test_wrong_config_is_refused(config, said):
    """ImproperlyConfigured names the layer, the key and the fix."""
    with pytest.raises(ImproperlyConfigured, match=said):
        NotifyChannelLayer(**config)


def test_other_database_engines_are_refused(monkeypatch):
    """A database that is not SQLite is refused by name of its engine."""
    from django.db import connections

    monkeypatch.setattr(type(connections["default"]), "vendor", "oracle")
    with pytest.raises(ImproperlyConfigured, match="must be SQLite, but is oracle"):
        NotifyChannelLayer()


def test_check_reports_a_wrong_config(settings):
    """manage.py check reports what the layer would refuse."""
    backend = "channels_lite.layers.notify.NotifyChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"capacity": 0}}}
    [error] = checks.check_layers(None)
    assert error.id == "channels_lite.E001"
    assert "CONFIG['capacity']" in error.msg


def test_check_refuses_memory_outside_of_tests(monkeypatch):
    """An in-memory database is an error, but not for the tests that make it so."""
    use_database("channels", "file:memorydb_channels?mode=memory&cache=shared")
    assert checks.check_databases(None) == []
    monkeypatch.delattr("django.test.utils._TestState.saved_data")
    [error] = checks.check_databases(None)
    assert error.id == "channels_lite.E002"
    use_database("channels", "unused-channels.sqlite3")


def test_missing_tables_name_the_mend(tmp_path, make_layer_sync):
    """Without migrations a layer raises ImproperlyConfigured that says what to run."""
    use_database("channels", tmp_path / "empty.sqlite3")
    layer = make_layer_sync()
    for call in (layer.send("channel", {}), layer.receive("channel")):
        with pytest.raises(ImproperlyConfigured, match="migrate channels_lite --database=channels"):
            asyncio.run(asyncio.wait_for(call, TIMEOUT))


def test_router_follows_the_layers(settings):
    """Models go to the default layer's database, and migrate into that of each layer."""
    backend = "channels_lite.layers.core.SQLiteChannelLayer"
    settings.CHANNEL_LAYERS = {
        "other": {"BACKEND": backend},
        "foreign": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        "default": {"BACKEND": backend, "CONFIG": {"database": "channels"}},
    }
    router = ChannelsRouter()
    assert layer_databases() == ["channels", "default"]
    assert router.db_for_read(Event) == router.db_for_write(Event) == "channels"
    assert router.allow_migrate("default", "channels_lite") is True
    assert router.allow_migrate("elsewhere", "channels_lite") is False
    assert router.allow_migrate("channels", "auth") is None


def test_readme_tells_the_defaults():
    """The CONFIG in README.md is what a layer takes when nothing is said."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    block = readme.split("```python\nCONFIG = ")[1].split("```")[0]
    assert ast.literal_eval(block) == dataclasses.asdict(Config())
