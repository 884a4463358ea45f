"""Finds our entries in ``CHANNEL_LAYERS``, and their databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.utils.module_loading import import_string

from channels_lite import process
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.engine import Engine

__all__ = ["database_of", "databases_in_use", "layer_databases", "misnamed_layers", "our_layers"]


def our_layers() -> dict[str, Mapping[str, Any]]:
    """The entries of ``CHANNEL_LAYERS`` with one of our backends, by alias."""
    ours: dict[str, Mapping[str, Any]] = {}
    for alias, entry in _entries().items():
        try:
            backend = import_string(entry["BACKEND"])
        except (ImportError, KeyError, TypeError):
            continue  # see misnamed_layers
        if isinstance(backend, type) and issubclass(backend, BaseSQLiteChannelLayer):
            ours[alias] = entry
    return ours


def misnamed_layers() -> dict[str, str]:
    """The errors of entries whose backend is below ``channels_lite`` and cannot be imported."""
    faults = {}
    for alias, entry in _entries().items():
        backend = entry.get("BACKEND") if isinstance(entry, Mapping) else None
        if isinstance(backend, str) and backend.startswith("channels_lite."):
            try:
                import_string(backend)
            except ImportError as error:
                faults[alias] = f"BACKEND {backend!r} cannot be imported: {error}"
    return faults


def _entries() -> Mapping[str, Mapping[str, Any]]:
    return getattr(settings, "CHANNEL_LAYERS", None) or {}


def layer_databases() -> list[str]:
    """The aliases of the databases with messages; the default layer's comes first."""
    layers = our_layers()
    order = sorted(layers, key=lambda alias: alias != "default")
    return list(dict.fromkeys(database_of(layers[alias]) for alias in order))


def databases_in_use() -> set[str]:
    """The aliases that layers of this process use, whether made from the settings or in code."""
    return {engine.config.database for engine in process.members(Engine)}


def database_of(layer: Mapping[str, Any]) -> str:
    """The database of an entry of ``CHANNEL_LAYERS``."""
    return str((layer.get("CONFIG") or {}).get("database", DEFAULT_DB_ALIAS))
