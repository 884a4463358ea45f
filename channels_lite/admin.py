"""Django's admin: waiting messages, groups, and a live page.  Nothing here can be changed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pprint import pformat
from typing import Any

import django
from asgiref.sync import async_to_sync, sync_to_async
from channels.exceptions import ChannelFull
from channels.layers import channel_layers
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import connections, router, transaction
from django.db.models import Count, Max, Min, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _

from channels_lite import clock
from channels_lite.errors import StoreUnavailable
from channels_lite.layers.configured import database_of, our_layers
from channels_lite.models import Event, GroupMembership, GroupMessage
from channels_lite.monitor import probe, snapshot
from channels_lite.serializers import UndecodableMessage
from channels_lite.store import trimming

__all__ = ["EventAdmin", "GroupMembershipAdmin", "GroupMessageAdmin"]

# Seconds between two updates of the live page.  After this many updates the browser asks again,
# because a server that is stopped waits for its streams.
EVERY = 1.0
PICTURES = 10
RETRY = f"retry: {1000 * EVERY:.0f}\n\n"


class _ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that the layers write: the admin shows and deletes them, and changes none."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Messages are sent by code."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Messages are not changed."""
        return False


@admin.register(Event)
class EventAdmin(_ReadOnly):
    """Waiting rows: for one channel, or for the members of a group in one process."""

    list_display = ("id", "channel", "created_at", "expires_at", "size")
    fields = ("channel_name", "recipients", "created_at", "expires_at", "message")
    readonly_fields = ("message",)
    search_fields = ("channel_name",)
    ordering = ("-id",)
    actions = ("purge_channels",)
    change_list_template = "admin/channels_lite/event/change_list.html"

    @admin.display(description=_("channel"), ordering="channel_name")
    def channel(self, event: Event) -> str:
        """The full name, if the row is for one channel."""
        members = event.recipients.count(",") + 1
        return f"{event.channel_name}{event.recipients if members == 1 else f' ({members})'}"

    @admin.display(description=_("bytes"))
    def size(self, event: Event) -> int:
        """The size of the encoded message."""
        return len(event.data)

    @admin.display(description=_("message"))
    def message(self, event: Event) -> str:
        """The message as its receiver gets it."""
        for alias, entry in our_layers().items():
            if database_of(entry) == router.db_for_read(Event, instance=event):
                try:
                    return pformat(channel_layers[alias].deserialize(bytes(event.data)))
                except UndecodableMessage as error:
                    return f"cannot be decoded: {error}"
        return "no layer uses this database"

    @admin.action(
        description=_("Delete all messages of the selected messages' channels"),
        permissions=["delete"],
    )
    def purge_channels(self, request: HttpRequest, queryset: QuerySet[Event]) -> None:
        """For a process-local channel, deletes the messages of all such channels of its process."""
        names = set(queryset.values_list("channel_name", flat=True))
        deleted, _each = Event.objects.filter(channel_name__in=names).delete()
        self.message_user(request, f"{deleted} messages of {len(names)} channels deleted.")

    def get_urls(self) -> list[URLPattern]:
        """Adds the live page and its stream."""
        view = self.admin_site.admin_view
        return [
            path("live/", view(self.live), name="channels_lite_live"),
            path("live/stream/", view(self.stream), name="channels_lite_live_stream"),
            *super().get_urls(),
        ]

    def live(self, request: HttpRequest) -> HttpResponse:
        """The page, which gets its numbers from `stream`."""
        self._require_permission(request)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Channel layers, live"),
            "opts": self.opts,
            "layers": list(our_layers()),
            "layer": self._asked(request),
            "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
        }
        return TemplateResponse(request, "admin/channels_lite/live.html", context)

    def stream(self, request: HttpRequest) -> StreamingHttpResponse:
        """Server-sent events: one per second; under WSGI only one, and the browser asks again."""
        self._require_permission(request)
        alias = self._asked(request)
        last = request.headers.get("Last-Event-ID", "")
        after = int(last) if last.isdecimal() else 0
        events: Any
        if isinstance(request, ASGIRequest):
            events = _pictures(alias, after)
        else:
            event, _stored = async_to_sync(_picture)(alias, after)
            events = iter([RETRY, event])
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingHttpResponse(events, content_type="text/event-stream", headers=headers)

    def _require_permission(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _asked(self, request: HttpRequest) -> str:
        layers = list(our_layers())
        asked = request.GET.get("layer", "")
        return asked if asked in layers else layers[0] if layers else ""


@admin.register(GroupMembership)
class GroupMembershipAdmin(_ReadOnly):
    """Channels in groups."""

    list_display = ("group_name", "channel_name", "joined_at", "expires_at")
    search_fields = ("group_name", "channel_name")
    ordering = ("group_name", "channel_name")


@admin.register(GroupMessage)
class GroupMessageAdmin(_ReadOnly):
    """Histories: each group with its last message."""

    list_display = ("group_name", "messages", "oldest", "created_at", "id")
    list_display_links = None
    search_fields = ("group_name",)
    ordering = ("group_name",)
    actions = ("purge_histories",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[GroupMessage]:
        """The last message of each group, with figures of the whole history."""
        groups = GroupMessage.objects.order_by().values("group_name")
        of_this = groups.filter(group_name=OuterRef("group_name"))
        last = groups.annotate(last=Max("id")).values("last")
        found: QuerySet[GroupMessage] = super().get_queryset(request).filter(pk__in=last)
        return found.annotate(
            messages_kept=Subquery(of_this.annotate(n=Count("id")).values("n")),
            kept_since=Subquery(of_this.annotate(first=Min("created_at")).values("first")),
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whole histories only: a layer could not tell that single messages are gone."""
        return obj is None and super().has_delete_permission(request)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Only that of this page."""
        return {name: each for name, each in super().get_actions(request).items()
                if name != "delete_selected"}  # fmt: skip

    @admin.display(description=_("messages"), ordering="messages_kept")
    def messages(self, last: Any) -> int:
        """The number of messages."""
        return int(last.messages_kept)

    @admin.display(description=_("oldest"), ordering="kept_since")
    def oldest(self, last: Any) -> Any:
        """When the oldest was sent."""
        return last.kept_since

    @admin.action(description=_("Delete the selected histories"), permissions=["delete"])
    def purge_histories(self, request: HttpRequest, queryset: QuerySet[GroupMessage]) -> None:
        """Members, and clients that come back, are told that something is gone."""
        alias = router.db_for_write(GroupMessage)

        def execute(statement: str, parameters: Any) -> list[Any]:
            with connections[alias].cursor() as cursor:
                cursor.execute(statement.replace("?", "%s"), parameters)
                return cursor.fetchall() if cursor.description else []

        deleted = 0
        names = list(queryset.values_list("group_name", flat=True))
        with transaction.atomic(using=alias):
            for name in names:
                deleted += trimming.purge(execute, name.encode(), clock.now())
        self.message_user(request, f"{deleted} messages of {len(names)} histories deleted.")


async def _pictures(alias: str, after: int) -> AsyncIterator[str]:
    yield RETRY
    for _number in range(PICTURES):
        event, after = await _picture(alias, after)
        yield event
        await asyncio.sleep(EVERY)


async def _picture(alias: str, after: int) -> tuple[str, int]:
    """One event: the snapshot, and the time that a message takes.

    Its id is the number of rows ever stored, which the browser sends when it asks again.
    """
    said: dict[str, Any]
    try:
        layer = channel_layers[alias]
        taken = await sync_to_async(snapshot.take)(layer, after)
        after = taken.stored
        said = dataclasses.asdict(taken)
        said["latency"] = await probe.round_trip(layer, by_relay=False)
    except (ChannelFull, ImproperlyConfigured, StoreUnavailable) as error:
        said = {"error": str(error)}
    except asyncio.TimeoutError:
        said = {"error": f"no message came back in {probe.DEADLINE:.0f} s"}
    return f"id: {after}\ndata: {json.dumps(said)}\n\n", after
