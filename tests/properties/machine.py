"""What the state machines share: a database, two layers on it, and a loop."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.conftest import LAYERS, TIMEOUT, use_database

__all__ = ["PROCESSES", "RARELY", "LayersMachine", "run_machine"]

#: ``make chaos`` looks at more examples, and at others each time.
QUICK = {"max_examples": 40, "stateful_step_count": 40, "derandomize": True}
THOROUGH = {"max_examples": 300, "stateful_step_count": 60, "print_blob": True}
#: Two layers on one file are to each other as two processes, with tokens and sockets of their own.
PROCESSES = st.integers(0, 1)
#: What empties everything is rare.
RARELY = st.integers(0, 4).map(lambda number: number == 0)


class LayersMachine(RuleBasedStateMachine):
    """Begins with `begin_layers` in its own ``@initialize``, and ends with `end_layers`."""

    kind: str
    migrated: bytes
    #: The alias of each process's database.
    aliases: tuple[str, str] = ("channels", "channels")
    #: CONFIG besides the database.
    config: dict[str, Any]

    def begin_layers(self) -> None:
        # A layer that is collected may still write its last words.
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        for alias in set(self.aliases):
            self.database = Path(self._folder.name) / f"{alias}.sqlite3"
            self.database.write_bytes(self.migrated)
            use_database(alias, self.database)
        self.loop = asyncio.new_event_loop()
        self.layers = [self.make_layer(process) for process in (0, 1)]

    def make_layer(self, process: int) -> Any:
        interval = 60 if self.kind == "notify" else 0.01
        return LAYERS[self.kind](
            database=self.aliases[process], polling_interval=interval, **self.config
        )

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, TIMEOUT))

    def end_layers(self) -> None:
        for layer in self.layers:
            self.run(layer.close())
        self.loop.close()
        self._folder.cleanup()


def run_machine(machine: type[LayersMachine], *, examples: int | None = None, **what: Any) -> None:
    """Plays it, with these attributes; ``examples`` is for ``make test``."""
    amount = THOROUGH if "CHAOS_SCALE" in os.environ else QUICK
    if examples is not None:
        amount = amount | {"max_examples": examples}
    run_state_machine_as_test(
        type("Machine", (machine,), what),
        settings=settings(deadline=None, suppress_health_check=list(HealthCheck), **amount),
    )
