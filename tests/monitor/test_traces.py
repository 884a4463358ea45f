"""Traces go with messages: from who sends to the handler, in one trace."""

from __future__ import annotations

import subprocess
import sys

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import ChannelFull
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from channels_lite.delivery.mailbox import Message
from channels_lite.layers.base import BaseSQLiteChannelLayer
from channels_lite.layers.traced import TRACE
from channels_lite.monitor import traces
from tests.conftest import received


@pytest.fixture(scope="module")
def exporter():
    """What was traced; a process has one provider for ever."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter, monkeypatch):
    """The finished spans, with tracing installed for one test."""
    for owner, name in [
        (BaseSQLiteChannelLayer, "send"),
        (BaseSQLiteChannelLayer, "group_send"),
        (BaseSQLiteChannelLayer, "traced"),
        (AsyncConsumer, "dispatch"),
        (SyncConsumer, "dispatch"),
    ]:
        monkeypatch.setattr(owner, name, owner.__dict__[name])
    monkeypatch.setattr(traces, "_is_installed", False)
    traces.install()
    traces.install()
    exporter.clear()
    return exporter.get_finished_spans


def by_name(spans):
    return {span.name: span for span in spans()}


class Heard(AsyncConsumer):
    """Keeps what it is told, within a span of its own."""

    async def told(self, event):
        self.event = event
        with trace.get_tracer("application").start_as_current_span("application"):
            pass


class HeardSync(SyncConsumer):
    """The same, in a thread."""

    def told(self, event):
        self.event = event
        with trace.get_tracer("application").start_as_current_span("application"):
            pass


@pytest.mark.parametrize("consumer", [Heard, HeardSync])
@pytest.mark.parametrize("how", ["jobs", "process-local", "group"])
async def test_handler_is_in_the_trace_of_the_sender(make_layer, spans, how, consumer):
    """Sent, handled and what the handler does: one trace, and the message as it was."""
    sender, receiver = make_layer(), make_layer()
    message = {"type": "told", "number": 7}
    channel = "jobs" if how == "jobs" else await receiver.new_channel()
    if how == "group":
        await receiver.group_add("room", channel)
        await sender.group_send("room", message)
        sent_name, handled_name = "group_send room", "process specific.*"
    else:
        await sender.send(channel, message)
        where = "jobs" if how == "jobs" else "specific.*"
        sent_name, handled_name = f"send {where}", f"process {where}"
    got = await received(receiver, channel)
    assert got == message == {"type": "told", "number": 7}
    handler = consumer()
    await handler.dispatch(got)
    assert handler.event == message
    found = by_name(spans)
    sent, handled, inner = found[sent_name], found[handled_name], found["application"]
    assert len(spans()) == 3
    assert (sent.kind, handled.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert handled.parent.span_id == handled.links[0].context.span_id == sent.context.span_id
    assert inner.parent.span_id == handled.context.span_id
    assert len({span.context.trace_id for span in spans()}) == 1
    assert dict(handled.attributes) == {
        "messaging.system": "channels_lite",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": channel,
        "messaging.destination.temporary": "!" in channel,
        "channels.message.type": "told",
    }


async def test_refused_send_is_an_error_of_its_span(make_layer, spans):
    """ChannelFull and bad messages are raised as ever, and the span tells of the former."""
    layer = make_layer(capacity=1)
    await layer.send("jobs", {"type": "told"})
    with pytest.raises(ChannelFull):
        await layer.send("jobs", {"type": "told"})
    assert [span.status.status_code for span in spans()] == [StatusCode.UNSET, StatusCode.ERROR]
    with pytest.raises(TypeError):
        await layer.send("jobs", "no dict")
    with pytest.raises(TypeError):
        await layer.send(7, {"type": "told"})


async def test_receiver_that_does_not_trace_sees_no_trace(make_layer, spans, monkeypatch):
    """A process without tracing gets the message that was sent, and nothing beside it."""
    layer = make_layer()
    await layer.send("jobs", {"type": "told"})
    monkeypatch.setattr(BaseSQLiteChannelLayer, "traced", None)
    got = await received(layer, "jobs")
    assert (got, type(got)) == ({"type": "told"}, dict)


@pytest.mark.parametrize("carrier", [7, {"traceparent": 7}, {"traceparent": "garbage"}, []])
async def test_garbage_for_a_trace_is_no_fault(make_layer, spans, carrier):
    """Whatever a stranger's row carries, its message is delivered."""
    layer = make_layer()
    message = {"type": "told", TRACE: carrier}
    got = layer._decode("jobs", Message(0, layer.serializer.encode(message), 0.0))
    assert got == {"type": "told"}
    await Heard().dispatch(got)


def test_nothing_is_imported_before_it_is_asked_for():
    """Without install() a process has no OpenTelemetry, whether or not the package is there."""
    script = (
        "import django, sys; django.setup()\n"
        "from channels.layers import get_channel_layer; get_channel_layer()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


async def test_names_of_arguments_may_be_given(make_layer, spans):
    """As a layer that is not traced takes them."""
    layer = make_layer()
    await layer.group_add(group="room", channel="jobs")
    await layer.send(channel="jobs", message={"type": "a"})
    await layer.group_send(group="room", message={"type": "b"})
    assert [(await received(layer, "jobs"))["type"] for _ in range(2)] == ["a", "b"]
