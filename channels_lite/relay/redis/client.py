"""Connections of redis-py from CONFIG, and readable reasons for its errors."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any, cast

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    RedisError,
    ResponseError,
)

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import Settings

__all__ = ["STEP", "connect", "field_of", "pool_of", "reason_of", "say"]

#: Seconds of one step of connecting.
STEP = 2.0


def pool_of(settings: Settings) -> ConnectionPool:
    """redis-py's; connects to nothing."""
    ours = {
        "protocol": 2,  # what is subscribed to comes as plain lists
        "socket_timeout": None,  # it is the relay that waits
        "socket_connect_timeout": STEP,
        "decode_responses": False,
        "client_name": "channels-lite",
    }
    options = {"client_name": ours["client_name"]} | dict(settings.options) | ours
    sentinels, service = options.pop("sentinels", None), options.pop("service", None)
    sentinel_options = options.pop("sentinel_kwargs", None)
    url = settings.url
    for ours_scheme, theirs in (("valkey://", "redis://"), ("valkeys://", "rediss://")):
        if url.startswith(ours_scheme):
            url = theirs + url[len(ours_scheme) :]
    if not sentinels:
        return ConnectionPool.from_url(url, **options)
    if not service:
        raise ValueError("sentinels need a service, the name of their master")
    known = ConnectionPool.from_url(url, **options).connection_kwargs
    for key in ("host", "port", "path"):
        known.pop(key, None)
    monitors = [(str(host), int(port)) for host, port in sentinels]
    found = Sentinel(  # type: ignore[no-untyped-call]
        monitors, sentinel_kwargs=sentinel_options, **known
    )
    return cast("ConnectionPool", found.master_for(service).connection_pool)


async def connect(pool: ConnectionPool) -> AbstractConnection:
    """A new connection.  Raises ``StoreUnavailable``."""
    connection = cast("AbstractConnection", pool.make_connection())  # type: ignore[no-untyped-call]
    try:
        connecting = connection.connect()  # type: ignore[no-untyped-call]
        await asyncio.wait_for(connecting, 2 * STEP)
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from error
    except (RedisError, OSError) as error:
        raise StoreUnavailable(reason_of(error)) from error
    finally:
        if isinstance(pool, SentinelConnectionPool):
            # They were asked for the master, and redis-py keeps their connections open.
            for sentinel in pool.sentinel_manager.sentinels:
                with suppress(RedisError, OSError):
                    await sentinel.connection_pool.disconnect()
    return connection


async def say(connection: AbstractConnection, *command: Any) -> Any:
    """The answer to a command, before anything else is under way.  Raises the same."""
    try:
        await connection.send_packed_command(connection.pack_command(*command))
        return await asyncio.wait_for(connection.read_response(), STEP)
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise StoreUnavailable(f"it did not answer within {STEP:.0f} s") from error
    except (RedisError, OSError) as error:
        raise StoreUnavailable(reason_of(error)) from error


def field_of(info: bytes, name: str) -> str:
    for line in info.decode(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def reason_of(error: Exception) -> str:
    said = str(error) or type(error).__name__
    cause = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its TLS certificate does not verify ({cause.verify_message}): see ssl_ca_certs "
                "in CONFIG['relay_options']"
            )
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    is_denied = any(word in said for word in ("WRONGPASS", "NOAUTH", "invalid username-password"))
    if is_denied or isinstance(error, (AuthenticationError, AuthorizationError)):
        return (
            f"it refuses the login ({said}): see user and password in CONFIG['relay'], or "
            "CONFIG['relay_options']"
        )
    if isinstance(error, InvalidResponse):
        return f"what listens there is no Redis ({said})"
    if isinstance(error, ResponseError) and "OOM" in said:
        return f"its memory is full: {said}"
    return said.partition(". ")[0]  # what it has to say about protected mode is a page
