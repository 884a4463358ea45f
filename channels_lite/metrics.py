"""``channels_lite.metrics``, for projects to import: Prometheus, see `monitor.metrics`."""

from channels_lite.monitor.metrics import DatabaseCollector, install, publish, view

__all__ = ["DatabaseCollector", "install", "publish", "view"]
