"""The tree: which package may import which, and what a project may import of ours."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import channels_lite

ROOT = Path(channels_lite.__file__).parent

# The packages in the order of the arrows: each imports of those before it only.  "" is for the
# modules at the top that all need, "django" for those that Django looks for by their names.
PACKAGES = ["", "store", "wake", "relay", "delivery", "layers", "monitor", "django"]
TOP = {
    "__init__", "clock", "config", "errors", "failpoints", "history", "loops", "names", "process",
    "serializers", "signals",
}  # fmt: skip
# Within a function, for Django imports `apps` before there are models.
LATE = {"apps", "checks", "management.commands.channels_lite", "wake.hooks"}

PUBLIC = [
    ("channels_lite", "__version__"),
    ("channels_lite.errors", "ForeignChannel InvalidMessage InvalidPosition StoreUnavailable"),
    ("channels_lite.health", "live ready"),
    ("channels_lite.history", "History Joined"),
    ("channels_lite.layers.aio", "AIOSQLiteChannelLayer"),
    ("channels_lite.layers.base", "BaseSQLiteChannelLayer"),
    ("channels_lite.layers.core", "SQLiteChannelLayer"),
    ("channels_lite.layers.notify", "NotifyChannelLayer"),
    ("channels_lite.metrics", "DatabaseCollector install view"),
    ("channels_lite.models", "Event GroupMembership GroupMessage"),
    ("channels_lite.otel", "TracedMessage install process"),
    ("channels_lite.resume", "ResumeMixin SyncResumeMixin"),
    ("channels_lite.router", "ChannelsRouter"),
    (
        "channels_lite.serializers",
        "BaseMessageSerializer JSONSerializer SerializerDoesNotExist UndecodableMessage registry",
    ),
    ("channels_lite.signals", "channel_full store_available store_unavailable"),
    ("channels_lite.testing", "ChannelLayerMixin LiveServerMixin Sent fresh_layers"),
    ("channels_lite.testing.pytest", "channel_layer sent"),
    ("channels_lite.urls", "urlpatterns"),
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in ROOT.rglob("*.py") if "migrations" not in path.parts}


def package_of(module: str) -> str:
    package = module.partition(".")[0]
    if package in TOP:
        return ""
    return package if package in PACKAGES else "django"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules of ours that it imports, also for types only, and whether within a function."""
    tree = ast.parse(path.read_text())
    late = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "names are absolute"
            if (node.module or "").partition(".")[0] == "channels_lite":
                for alias in node.names:
                    full = f"{node.module}.{alias.name}".removeprefix("channels_lite.")
                    module = full if full in MODULES else full.rpartition(".")[0] or "__init__"
                    yield module, node in late


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_go_one_way(module):
    """A package imports of those below it, and nobody dodges a circle within a function."""
    place = PACKAGES.index(package_of(module))
    for imported, is_late in imports(MODULES[module]):
        assert PACKAGES.index(package_of(imported)) <= place, imported
        assert not is_late or module in LATE, imported


def test_there_is_no_circle():
    """Of modules, within a package or across."""
    graph = {module: {each for each, _ in imports(path)} for module, path in MODULES.items()}
    while leaves := {module for module, imported in graph.items() if not imported & graph.keys()}:
        for module in leaves:
            del graph[module]
    assert not graph


def test_start_imports_only_what_is_used():
    """Each process and each command pays for it: nothing for tests, and no extra."""
    code = (
        "import sys, django; from django.conf import settings; settings.configure("
        "INSTALLED_APPS=['channels_lite'], CHANNEL_LAYERS={'default': {'BACKEND': "
        "'channels_lite.layers.notify.NotifyChannelLayer'}}, DATABASES={'default': {'ENGINE': "
        "'django.db.backends.sqlite3', 'NAME': 'db.sqlite3'}}); django.setup(); "
        "from channels.layers import get_channel_layer; assert get_channel_layer(); "
        "print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unused = "django.test unittest cryptography nats redis prometheus_client opentelemetry"
    assert set(unused.split()) & set(ran.stdout.split()) == set()


@pytest.mark.parametrize(("module", "names"), PUBLIC)
def test_public_names_stay(module, names):
    """A project that upgrades imports what it has imported."""
    found = importlib.import_module(module)
    assert [name for name in names.split() if not hasattr(found, name)] == []
