"""Pages of the example; the WebSocket's address is in asgi.py."""

from django.urls import path, re_path
from django.views.generic import RedirectView

from chat import views

# The room becomes part of a group's name, which takes these characters, and 99 at most.
ROOM = r"(?P<room>[A-Za-z0-9_-]{1,40})"

urlpatterns = [
    path("", RedirectView.as_view(url="/room/lobby/")),
    path("assets/<str:name>", views.asset),
    re_path(rf"^room/{ROOM}/$", views.show),
    re_path(rf"^room/{ROOM}/post/$", views.post),
]
