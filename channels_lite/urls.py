"""``path("health/", include("channels_lite.urls"))``: ``live/`` and ``ready/``."""

from __future__ import annotations

from django.urls import path

from channels_lite.health import live, ready

__all__ = ["urlpatterns"]

urlpatterns = [path("live/", live), path("ready/", ready)]
