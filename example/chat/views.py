"""Plain synchronous views."""

from __future__ import annotations

import os
from pathlib import Path

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

import channels_lite
from chat.models import Message, clean, group_of

LATEST = 50
# Small files, served from memory: the example needs no other web server for them.
TYPES = {"chat.css": "text/css", "chat.js": "text/javascript", "resume.js": "text/javascript"}
OURS = Path(channels_lite.__file__).parent / "static" / "channels_lite"
PLACES = {name: Path(__file__).parent / "assets" for name in TYPES} | {"resume.js": OURS}
ASSETS = {name: (folder / name).read_bytes() for name, folder in PLACES.items()}


def show(request: HttpRequest, room: str) -> HttpResponse:
    """The page of a room, with what was said in it last."""
    group = group_of(room)
    positions = {}
    if settings.HAS_HISTORY:
        # Before the lines are read: what is said in between is in both, and never in neither.
        history = async_to_sync(get_channel_layer().group_history)(group, limit=1)
        positions[group] = history.position
    latest = Message.objects.filter(room=room).order_by("-id")[:LATEST]
    messages = [message.as_dict() for message in reversed(latest)]
    state = {"pid": os.getpid(), "room": room, "messages": messages, "positions": positions}
    context = {"room": room, "state": state, "node": settings.NODE}
    context |= {"has_history": settings.HAS_HISTORY, "debug": settings.DEBUG}
    return render(request, "chat/room.html", context)


@require_POST
def post(request: HttpRequest, room: str) -> HttpResponse:
    """Says something without a WebSocket."""
    said = clean(request.POST.get("name", ""), request.POST.get("text", ""))
    if said is None:
        return JsonResponse({"error": "text is empty"}, status=400)
    layer = get_channel_layer()
    # What is sent inside atomic() on the layer's database goes out with its commit, which comes
    # after the one of the message: nobody hears of a message that was not saved.
    with transaction.atomic(using=layer.database), transaction.atomic():
        message = Message.objects.create(room=room, via="post", **said)
        event = {"type": "room.message", "message": message.as_dict()}
        async_to_sync(layer.group_send)(group_of(room), event)
    return JsonResponse({"pid": os.getpid()}, status=201)


def asset(request: HttpRequest, name: str) -> HttpResponse:
    """The style sheet or the script."""
    if name not in ASSETS:
        raise Http404(name)
    headers = {"Cache-Control": "no-cache"}
    return HttpResponse(ASSETS[name], content_type=f"{TYPES[name]}; charset=utf-8", headers=headers)
