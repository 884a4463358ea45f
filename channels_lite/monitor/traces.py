"""Spans for OpenTelemetry: the sender of a message and its handler, in one trace.

Off until `install`, which needs the extra ``otel``.  OpenTelemetry is not imported before::

    from channels_lite.otel import install

    install()  # in AppConfig.ready(), after the SDK is set up

The context travels inside the message, under ``channels_lite.layers.base.TRACE``.  Every process
removes it before a handler sees the message, whether it traces or not.  Names and attributes follow
opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from channels.consumer import AsyncConsumer, SyncConsumer
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind

from channels_lite import __version__
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.keys import TRACE

__all__ = ["TracedMessage", "install", "process"]

_tracer = trace.get_tracer("channels_lite", __version__)
_is_installed = False


class TracedMessage(dict[str, Any]):
    """A message that was sent within a trace.  It is a dict with two attributes."""

    #: The context of the span that sent it.
    context: Context
    #: The channel on which it was received.
    channel: str


def install() -> None:
    """Traces each ``send`` and ``group_send`` of this process, and each consumer's handler.

    Further calls do nothing.
    """
    global _is_installed  # noqa: PLW0603 - the tracer provider is the process's, too
    if _is_installed:
        return
    _is_installed = True
    layer = BaseSQLiteChannelLayer
    layer.send = _sending(layer.send, "send")  # type: ignore[method-assign]
    layer.group_send = _sending(layer.group_send, "group_send")  # type: ignore[method-assign]
    layer.traced = staticmethod(_traced)
    for consumer in (AsyncConsumer, SyncConsumer):
        # Not by attribute: SyncConsumer's is an object that would be bound to None.
        consumer.dispatch = _dispatching(vars(consumer)["dispatch"])


@contextmanager
def process(message: Mapping[str, Any]) -> Iterator[Span]:
    """A span for handling a message.  Consumers open it by themselves; other code calls this::

        message = await layer.receive("thumbnails")
        with otel.process(message):
            ...

    The span is a child of the span that sent the message, in the same trace, and linked to it.  For
    a message that was sent outside a trace, yields the current span.
    """
    if not isinstance(message, TracedMessage):
        yield trace.get_current_span()
        return
    attributes = _attributes("process", message.channel)
    if isinstance(message.get("type"), str):
        attributes["channels.message.type"] = message["type"]
    sent_by = trace.get_current_span(message.context).get_span_context()
    with _tracer.start_as_current_span(
        _name("process", message.channel),
        message.context,
        SpanKind.CONSUMER,
        attributes,
        [Link(sent_by)],
    ) as span:
        yield span


_Send = Callable[[BaseSQLiteChannelLayer, str, Mapping[str, Any]], Awaitable[None]]


def _sending(send: _Send, operation: str) -> Any:
    signature = inspect.signature(send)

    @wraps(send)
    async def traced(*args: Any, **kwargs: Any) -> None:
        self, to, message = signature.bind(*args, **kwargs).arguments.values()
        if not isinstance(message, dict) or not isinstance(to, str):
            return await send(self, to, message)  # which raises the right error
        with _tracer.start_as_current_span(
            _name(operation, to), kind=SpanKind.PRODUCER, attributes=_attributes(operation, to)
        ):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            return await send(self, to, message | {TRACE: carrier} if carrier else message)

    return traced


def _traced(channel: str, message: dict[str, Any], carrier: object) -> dict[str, Any]:
    """The message with its trace context.  ``carrier`` may be anything: any program can send it."""
    if not isinstance(carrier, dict):
        return message
    texts = {key: value for key, value in carrier.items() if isinstance(value, str)}
    traced = TracedMessage(message)
    traced.context, traced.channel = propagate.extract(texts, Context()), channel
    return traced


def _dispatching(dispatch: Callable[[Any, dict[str, Any]], Awaitable[None]]) -> Any:
    @wraps(dispatch)
    async def traced(self: Any, message: dict[str, Any]) -> None:
        with process(message):
            await dispatch(self, message)

    return traced


def _destination(name: str) -> str:
    """The name without process and number, because there must be few names of spans."""
    return f"{name.partition('.')[0]}.*" if "!" in name else name


def _name(operation: str, destination: str) -> str:
    return f"{operation} {_destination(destination)}"


def _attributes(operation: str, destination: str) -> dict[str, str | bool]:
    return {
        "messaging.system": "channels_lite",
        "messaging.operation.name": operation,
        "messaging.operation.type": "process" if operation == "process" else "send",
        "messaging.destination.name": destination,
        "messaging.destination.temporary": "!" in destination,
    }
