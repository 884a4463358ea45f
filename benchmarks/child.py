"""A child process of the benchmark: one layer on one event loop, running roles on demand.

``python -m benchmarks.child`` talks JSON lines with its parent (`benchmarks.stage`): on stdin first
``{"peer", "place"}``, then, for each role, ``{"run", "arguments"}`` and as many ``{"go"}`` as the
role hears; on stdout ``{"up"}``, then ``{"ready"}``, ``{"note"}`` and at last ``{"result"}`` or
``{"error"}``.  It ends when stdin does, so it cannot outlive its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import traceback
from importlib import import_module
from typing import Any

from benchmarks.peers import OLD, PEERS, Peer, settings_of

__all__ = ["Link"]


class Link:
    """What a role gets: its layer, its place, and the line to the parent."""

    def __init__(self, peer: Peer, place: dict[str, Any], lines: asyncio.StreamReader, out: int):
        self.peer = peer
        self.place = place
        self._lines = lines
        self._out = out
        self._layer: Any = None

    @property
    def layer(self) -> Any:
        """The channel layer, made at the first use; a floor has none."""
        if self._layer is None:
            from channels.layers import channel_layers  # noqa: PLC0415 - sys.path comes first

            self._layer = channel_layers["default"]
        return self._layer

    def tell(self, kind: str, value: object = None) -> None:
        """One line to the parent: "ready", "note", or what ends a role."""
        os.write(self._out, json.dumps({kind: value}).encode() + b"\n")

    async def hear(self, kind: str = "go") -> Any:
        """The value of the parent's next line.  Raises ``EOFError`` when the parent is gone."""
        line = await self._lines.readline()
        if not line:
            raise EOFError
        return json.loads(line)[kind]


def set_up(peer: Peer, place: dict[str, Any]) -> None:
    """Configures Django, with the right channels-lite."""
    if peer.is_old:
        sys.path.insert(0, str(OLD))
        # An editable install adds a finder that offers its own modules for those 0.4.0 lacks.
        sys.meta_path[:] = [
            finder
            for finder in sys.meta_path
            if "__editable__" not in getattr(finder, "__module__", "")
        ]
    if peer.is_bare:
        sys.modules["hiredis"] = None  # type: ignore[assignment] # redis-py then parses in Python
    import django  # noqa: PLC0415 - only now is sys.path right
    from django.conf import settings  # noqa: PLC0415

    settings.configure(**settings_of(peer, place))
    django.setup()
    if peer.uses_sqlite:
        import channels_lite  # noqa: PLC0415

        if str(channels_lite.__file__).startswith(str(OLD)) != peer.is_old:
            raise RuntimeError(f"{peer.name} imported the wrong channels_lite")


async def migrate(link: Link) -> None:
    """A role: makes the tables."""
    from asgiref.sync import sync_to_async  # noqa: PLC0415
    from django.core.management import call_command  # noqa: PLC0415
    from django.db import connections  # noqa: PLC0415

    database = "channels_postgres" if link.peer.server == "postgres" else "default"

    def work() -> None:
        call_command("migrate", verbosity=0, database=database)
        connections.close_all()

    await sync_to_async(work)()


async def serve(out: int) -> None:
    """Runs roles until stdin ends."""
    lines = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    first = json.loads(await lines.readline())
    peer = PEERS[first["peer"]]
    if peer.backend:
        set_up(peer, first["place"])
    link = Link(peer, first["place"], lines, out)
    link.tell("up")
    while line := await lines.readline():
        order = json.loads(line)
        module, _, name = order["run"].partition(":")
        role = getattr(import_module(module), name)
        try:
            link.tell("result", await role(link, **order["arguments"]))
        except EOFError:
            return
        except Exception as problem:  # noqa: BLE001 - the parent is told, and decides
            traceback.print_exc()
            link.tell("error", f"{type(problem).__name__}: {problem}")


def main() -> None:
    """Keeps stdout for the parent: what a layer prints goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        asyncio.run(serve(out))
    # No clean-up: some peers' threads and pools would hold the process for seconds.
    os._exit(0)


if __name__ == "__main__":
    main()
