"""Spans for OpenTelemetry: who sent a message, and what its handler did, in one trace.

Off until `install`, which wants the extra ``otel``; nothing of OpenTelemetry is imported before::

    from channels_lite.otel import install

    install()  # in AppConfig.ready(), after the SDK is set up

The context travels inside the message, under ``channels_lite.layers.base.TRACE``, and is taken out
of it before a handler sees it, by processes that trace and by those that do not.  Names and
attributes are those of opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.
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
from channels_lite.layers.base import TRACE, BaseSQLiteChannelLayer

__all__ = ["TracedMessage", "install", "process"]

_tracer = trace.get_tracer("channels_lite", __version__)
_is_installed = False


class TracedMessage(dict[str, Any]):
    """A message that was sent within a trace; otherwise the dict that it is."""

    #: Of the span that sent it.
    context: Context
    #: That it was received on.
    channel: str


def install() -> None:
    """Has each ``send`` and ``group_send`` of this process traced, and each consumer's handler.

    Once; further calls do nothing.
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
    """A span for what is done with a message, which consumers have without asking::

        message = await layer.receive("thumbnails")
        with otel.process(message):
            ...

    A child of the span that sent the message, in that trace, and linked to it.  One that was sent
    outside of any trace gets the span that is current.
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
            return await send(self, to, message)  # which says what is wrong
        with _tracer.start_as_current_span(
            _name(operation, to), kind=SpanKind.PRODUCER, attributes=_attributes(operation, to)
        ):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            return await send(self, to, message | {TRACE: carrier} if carrier else message)

    return traced


def _traced(channel: str, message: dict[str, Any], carrier: object) -> dict[str, Any]:
    """The message that a carrier came with.  Others may have written it: it can be anything."""
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
    """Without the process and the number: a span's name must be one of few."""
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
