"""``channels_lite.health``, for projects to import: two views, see `monitor.health`."""

from channels_lite.monitor.health import live, ready

__all__ = ["live", "ready"]
