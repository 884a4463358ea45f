"""Its applications, with the admin's own static files; its URLs are in ``urls``."""

from __future__ import annotations

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler, StaticFilesHandler
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

application = ASGIStaticFilesHandler(get_asgi_application())
wsgi = StaticFilesHandler(get_wsgi_application())
