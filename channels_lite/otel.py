"""``channels_lite.otel``, for projects to import: OpenTelemetry, see `monitor.traces`."""

from channels_lite.monitor.traces import TracedMessage, install, process

__all__ = ["TracedMessage", "install", "process"]
