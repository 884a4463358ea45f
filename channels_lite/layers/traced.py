"""How a message carries the trace in which it was sent, to the layer that receives it."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["TRACE", "Traced"]

# The key under which a message carries the trace in which it was sent.  Handlers do not see it.
TRACE = "__channels_lite_trace__"


class Traced(Protocol):
    """Makes the received message from the trace that it carried, which can be any object."""

    def __call__(self, channel: str, message: dict[str, Any], carrier: object) -> dict[str, Any]:
        """Raises nothing."""
