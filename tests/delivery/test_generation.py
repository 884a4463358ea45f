"""When another generation of the table is begun."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from channels_lite.clock import Clock
from channels_lite.delivery.cursors import Cursors
from channels_lite.delivery.generation import Generations
from channels_lite.store.sql import Look, Table


async def test_looks_that_find_none_have_it_begun_once_in_a_while(monkeypatch):
    """The row may be another transaction's, as under TestCase: looks must not chase each other."""
    asked, loop = [], asyncio.get_running_loop()
    nothing = SimpleNamespace(forget_rows=lambda: None, forget=lambda: None)

    async def ask():
        asked.append(True)
        assert len(asked) < 10

    def look():
        assert not generations.is_over(loop, Look(0.0, "token", [], {}), Table())

    generations = Generations(
        database="channels",
        store=None,
        clock=Clock(),
        cursors=Cursors("token"),
        mailboxes=None,
        frames=nothing,
        occupancy=nothing,
        outgoing=None,
        presence=None,
        begin_use=lambda: None,
        look=look,
    )

    monkeypatch.setattr(generations, "ask", ask)
    for _ in range(3):
        look()
        for _ in range(100):
            await asyncio.sleep(0)
    assert len(asked) == 1
