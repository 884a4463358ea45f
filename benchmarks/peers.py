"""What is measured: each peer's backend, its set-up, and what has to be there for it.

Read by the parent, to know what to start, and by its children, to configure Django.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "DEFAULTS",
    "FLOORS",
    "LAYERS",
    "OLD",
    "PEERS",
    "Peer",
    "missing_package",
    "rounds_of",
    "settings_of",
]

#: Where the release 0.4.0 is installed, for it has the name of the package that is under test.
OLD = Path(__file__).parent / ".old"

# High enough that nobody drops; pub/sub has no capacity.
CAPACITY = 100_000

# The recommended set-up of the README of 0.4.0.
OLD_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 5,
    "init_command": (
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=10000; "
        "PRAGMA temp_store=MEMORY; PRAGMA busy_timeout=5000;"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One competitor in one set-up."""

    name: str
    about: str
    backend: str = ""  # empty for a floor
    server: str = ""  # "redis" or "postgres", which `benchmarks.servers` starts
    packages: tuple[str, ...] = ()  # modules that must be importable
    is_polling: bool = False  # looks every 0.1 s: gets fewer messages, or a run takes an hour
    is_old: bool = False  # children have ``OLD`` first on sys.path
    is_bare: bool = False  # as installed, without what the documentation recommends

    @property
    def uses_sqlite(self) -> bool:
        """Whether it needs a migrated database file."""
        return self.backend.startswith("channels_lite.")

    @property
    def tables(self) -> str:
        """What its tables are made for; peers of the same share them.  Empty: it has none."""
        if self.uses_sqlite:
            return f"{'0.4.0' if self.is_old else 'ours'}{' bare' * self.is_bare}"
        return self.server if self.server == "postgres" else ""


_REDIS = "channels_redis.core.RedisChannelLayer"
_PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
_CORE = "channels_lite.layers.core.SQLiteChannelLayer"
_AIO = "channels_lite.layers.aio.AIOSQLiteChannelLayer"

_ALL = [
    Peer(name="wake-floor", about="a byte in a FIFO between two asyncio loops"),
    Peer(name="sqlite-floor", about="one INSERT, the byte, one SELECT; no layer"),
    Peer(
        name="notify",
        about="our notify layer",
        backend="channels_lite.layers.notify.NotifyChannelLayer",
        packages=("_cffi_backend",),
    ),
    Peer(
        name="pubsub",
        about="channels_redis pub/sub, hiredis",
        backend=_PUBSUB,
        server="redis",
        packages=("channels_redis", "hiredis"),
    ),
    Peer(
        name="redis",
        about="channels_redis core, hiredis",
        backend=_REDIS,
        server="redis",
        packages=("channels_redis", "hiredis"),
    ),
    Peer(
        name="postgres",
        about="channels-postgres",
        backend="channels_postgres.core.PostgresChannelLayer",
        server="postgres",
        packages=("channels_postgres", "psycopg", "psycopg_pool"),
    ),
    Peer(
        name="aio",
        about="our aio layer, 0.1 s polling",
        backend=_AIO,
        is_polling=True,
        packages=("aiosqlite",),
    ),
    Peer(name="core", about="our core layer, 0.1 s polling", backend=_CORE, is_polling=True),
    Peer(
        name="aio-0.4.0",
        about="channels-lite 0.4.0 aio, 0.1 s polling",
        backend=_AIO,
        is_polling=True,
        is_old=True,
        packages=("aiosqlite",),
    ),
    Peer(
        name="core-0.4.0",
        about="channels-lite 0.4.0 core, 0.1 s polling",
        backend=_CORE,
        is_polling=True,
        is_old=True,
    ),
    Peer(
        name="memory",
        about="Channels' InMemoryChannelLayer, one process only",
        backend="channels.layers.InMemoryChannelLayer",
    ),
    Peer(
        name="pubsub-bare",
        about="channels_redis pub/sub, no hiredis",
        backend=_PUBSUB,
        server="redis",
        packages=("channels_redis",),
        is_bare=True,
    ),
    Peer(
        name="redis-bare",
        about="channels_redis core, no hiredis",
        backend=_REDIS,
        server="redis",
        packages=("channels_redis",),
        is_bare=True,
    ),
    Peer(
        name="aio-0.4.0-bare",
        about="channels-lite 0.4.0 aio, rollback journal",
        backend=_AIO,
        is_polling=True,
        is_old=True,
        is_bare=True,
        packages=("aiosqlite",),
    ),
    Peer(
        name="core-0.4.0-bare",
        about="channels-lite 0.4.0 core, rollback journal",
        backend=_CORE,
        is_polling=True,
        is_old=True,
        is_bare=True,
    ),
]

PEERS = {peer.name: peer for peer in _ALL}
FLOORS = ["wake-floor", "sqlite-floor"]
#: The layers that talk between processes, in their recommended set-up: what most workloads take.
LAYERS = ["notify", "pubsub", "redis", "postgres", "aio", "core", "aio-0.4.0", "core-0.4.0"]
#: The same as installed, where that differs from what their documentation recommends.
DEFAULTS = ["pubsub-bare", "redis-bare", "aio-0.4.0-bare", "core-0.4.0-bare"]


def rounds_of(peer: Peer, plan: dict[str, Any]) -> int:
    """How often it has its turn: the time is for those that bars are about.

    A polling layer's latency is its interval, however often one looks.
    """
    if peer.is_polling or peer.is_bare:
        return 1
    return int(plan["rounds_others" if peer.name in ("redis", "postgres") else "rounds"])


def missing_package(peer: Peer) -> str:
    """The first package of ``peer`` that cannot be imported, or an empty string."""
    for package in peer.packages:
        if importlib.util.find_spec(package) is None:
            return package
    return ""


def settings_of(peer: Peer, place: dict[str, Any]) -> dict[str, Any]:
    """Django's settings; ``place`` says where the database and the servers are."""
    apps: list[str] = []
    databases: dict[str, Any] = {}
    database: dict[str, Any]
    config: dict[str, Any] = {"capacity": CAPACITY}
    if peer.server == "redis":
        config["hosts"] = [("127.0.0.1", place["redis"]["port"])]
        if "pubsub" in peer.backend:
            del config["capacity"]
    elif peer.server == "postgres":
        server = place["postgres"]
        database = {
            "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": server["user"],
            "PASSWORD": "", "HOST": "127.0.0.1", "PORT": str(server["port"]), "TIME_ZONE": None,
        }  # fmt: skip
        apps, databases = (
            ["channels_postgres"],
            {"default": database, "channels_postgres": database},
        )
        config = dict(database)
    elif peer.uses_sqlite:
        database = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{place['folder']}/channels.sqlite3",
        }
        if peer.is_old and not peer.is_bare:
            database["OPTIONS"] = OLD_OPTIONS
        apps, databases, config["database"] = ["channels_lite"], {"default": database}, "default"
    return {
        "INSTALLED_APPS": apps,
        "DATABASES": databases,
        "CHANNEL_LAYERS": {"default": {"BACKEND": peer.backend, "CONFIG": config}},
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "USE_TZ": True,
    }
