"""A project's tests under Django's own runner, which puts SQLite databases into memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = {
    "core": "channels_lite.layers.core.SQLiteChannelLayer",
    "aio": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
    "notify": "channels_lite.layers.notify.NotifyChannelLayer",
}
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("case", ["WithinTransactions", "WithoutTransactions", "WithIdsBegunAnew"])
@pytest.mark.parametrize("layer", BACKENDS)
def test_works_under_the_test_runner(tmp_path, layer, case):
    """TestCase and TransactionTestCase, sync and async, work and leave the project's files be."""
    environment = os.environ | {"TESTED_BACKEND": BACKENDS[layer], "PYTHONPATH": str(ROOT)}
    command = ["django", "test", f"tests.memory_cases.{case}", "tests.memory_cases.Set"]
    ran = subprocess.run(
        [sys.executable, "-m", *command, "--settings=tests.settings"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Ran 8 tests" in ran.stderr
    assert list(tmp_path.iterdir()) == []
