"""The servers of a URL, and how to connect to one with nats-py.

Thread: the relay's loop.  It has no state.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from nats.aio.client import Client
from nats.errors import Error as NatsError

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Settings
from channels_lite.relay.nats.client import STEP, OrderedClient

__all__ = ["check", "connect", "servers_of"]

# Of nats-py's options, those that are none of the user's.
_OURS = {
    "self", "servers", "allow_reconnect", "connect_timeout", "ping_interval", "error_cb",
    "disconnected_cb", "closed_cb", "reconnected_cb", "discovered_server_cb", "lame_duck_mode_cb",
    "no_echo", "verbose", "inbox_prefix",
}  # fmt: skip


def servers_of(url: str) -> list[str]:
    """One URL for each; a login that is given once is all of them's."""
    scheme, _, rest = url.partition("://")
    login, _, _ = rest.partition(",")[0].rpartition("@")
    return [
        f"{scheme}://{each if '@' in each or not login else f'{login}@{each}'}"
        for each in rest.rstrip("/").split(",")
    ]


def check(settings: Settings) -> None:
    """Raises ``ImproperlyConfigured`` for what can be known to be wrong without a server."""
    known = set(inspect.signature(Client.connect).parameters) - _OURS
    unknown = sorted(set(settings.options) - known)
    if unknown:
        raise ImproperlyConfigured(
            f"CONFIG['relay_options'] has {', '.join(map(repr, unknown))}; it takes prefix, "
            f"replicas, and of nats-py's connect() {', '.join(sorted(known))}."
        )
    for server in servers_of(settings.url):
        try:
            has_host = bool(urlsplit(server).hostname) and urlsplit(server).port != 0
        except ValueError:
            has_host = False
        if not has_host:
            raise ImproperlyConfigured(
                f"CONFIG['relay'] is {settings.shown!r}, but must be nats://host:port,host:port ..."
            )


async def connect(
    client: OrderedClient,
    settings: Settings,
    server: str,
    on_error: Callable[[Exception], Awaitable[None]],
    on_lost: Callable[[], Awaitable[None]],
) -> None:
    """Raises ``StoreUnavailable``, which says how to fix it."""
    options = {"name": f"channels-lite {settings.token}"} | dict(settings.options)
    host = urlsplit(server).hostname
    try:
        await client.connect(
            **options,
            servers=[server],
            allow_reconnect=False,
            connect_timeout=STEP,  # type: ignore[arg-type]
            ping_interval=3600,
            error_cb=on_error,
            disconnected_cb=on_lost,
            closed_cb=on_lost,
        )
    except ssl.SSLCertVerificationError as error:
        raise StoreUnavailable(
            f"the TLS certificate of {host} does not verify ({error.verify_message}): give "
            "CONFIG['relay_options']['tls'] an ssl.SSLContext that knows who has signed it"
        ) from error
    except ConnectionRefusedError as error:
        port = urlsplit(server).port or 4222
        raise StoreUnavailable(f"nothing listens at {host}:{port}") from error
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise StoreUnavailable(f"{host} did not answer within {STEP:.0f} s") from error
    except (OSError, NatsError, ValueError) as error:
        raise StoreUnavailable(_reason(str(error), str(host))) from error


def _reason(said: str, host: str) -> str:
    if "authorization" in said.lower():
        return (
            f"{host} refuses the login: see user and password in CONFIG['relay'], or "
            "CONFIG['relay_options']"
        )
    if "expecting INFO" in said or "json parse" in said:
        return f"what listens at {host} is no NATS server"
    return said
