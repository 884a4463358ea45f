"""docs/testing.md, done by the letter in a project of its own, which has no more than it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import channels
import django
import pytest

from tests.docs.pages import blocks

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs/testing.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The shop, with every block of the page in the file that its first line names."""
    root = shutil.copytree(HERE / "project", tmp_path / "project")
    for block in blocks(PAGE):
        (root / block.file[1]).write_text(block.code)
    return root


def ran(project: Path, *command: str) -> str:
    """What a command said that has to succeed there."""
    # Daphne's own, which Python 3.14 warns of.
    strict = ("-W", "error", "-W", "ignore::DeprecationWarning:txaio.tx")
    if command[0] == "pytest":  # whose processes of -n know nothing of Python's -W
        command += strict
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, *strict, "-m", *command],
        cwd=project,
        env=environment | {"PYTHONPATH": f"{project}{os.pathsep}{PAGE.parent.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_block_names_its_file():
    """No block of the page goes untested."""
    named = {block.file[1] for block in blocks(PAGE) if block.file}
    assert len(named) == PAGE.read_text().count("```") / 2 == 6


@pytest.mark.parametrize("engine", ["TestCase", "TransactionTestCase"])
def test_mixin(project: Path, engine: str):
    """The page's test case passes under manage.py test, whichever case it is mixed into."""
    tests = project / "shop/tests.py"
    tests.write_text(re.sub(r"\bTestCase\b", engine, tests.read_text()))
    assert "Ran 2 tests" in ran(project, "manage", "test", "shop.tests")


@pytest.mark.parametrize("layer", ["core.SQLite", "aio.AIOSQLite", "notify.Notify"])
@pytest.mark.parametrize("database", ["default", "channels"])
def test_mixin_on_files(project: Path, layer: str, database: str):
    """Each layer, on the models' database or its own, really sends inside a TestCase."""
    settings = project / "shop/settings.py"
    text = settings.read_text().replace("notify.Notify", layer)
    settings.write_text(text.replace('"database": "channels"', f'"database": "{database}"'))
    (project / "shop/test_heard.py").write_text(
        "import sqlite3\n"
        "from contextlib import closing\n"
        "from asgiref.sync import async_to_sync\n"
        "from channels_lite.testing import ChannelLayerMixin\n"
        "from django.db import connections\n"
        "from django.test import TestCase\n"
        "class Heard(ChannelLayerMixin, TestCase):\n"
        "    def test(self):\n"
        "        async_to_sync(self.channel_layer.group_add)('orders', 'plain')\n"
        "        self.client.post('/pay/7')\n"
        "        file = connections.settings[self.channel_layer.database]['NAME']\n"
        "        with closing(sqlite3.connect(file)) as other:\n"
        "            count = 'SELECT count(*) FROM channels_lite_event'\n"
        "            self.assertEqual(other.execute(count).fetchone(), (1,))\n"
        "        message = async_to_sync(self.channel_layer.receive)('plain')\n"
        "        self.assertEqual(message, {'type': 'order.paid', 'number': 7})\n"
        "        with self.assertRaisesRegex(AssertionError, \"number=8 .*'number': 7\"):\n"
        "            self.assert_sent('orders', number=8)\n"
        "        with self.assertRaisesRegex(AssertionError, 'but .*order.paid'):\n"
        "            self.assert_nothing_sent()\n"
    )
    assert "Ran 3 tests" in ran(project, "manage", "test", "shop.tests", "shop.test_heard")


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("--no-migrations",)])
def test_fixtures(project: Path, arguments: tuple[str, ...]):
    """The page's fixtures work, in parallel and without migrations, too."""
    assert "4 passed" in ran(project, "pytest", "test_shop.py", "shop/tests.py", *arguments)


def test_fixtures_on_djangos_connection(project: Path):
    """No guard of Django or pytest-django keeps the core layer from its file."""
    settings = project / "shop/settings.py"
    settings.write_text(settings.read_text().replace("notify.Notify", "core.SQLite"))
    assert "4 passed" in ran(project, "pytest", "test_shop.py", "shop/tests.py")


needs_live_server = pytest.mark.skipif(
    django.VERSION >= (5, 2) and channels.__version__ < "4.3",
    reason="Channels' own test case knows Django 5.2 from 4.3 on (channels issue 2148)",
)


@needs_live_server
def test_live_server_beside_fresh_layers(project: Path):
    """The page's live server, another process, hears the test and its views; the mixin works."""
    assert "Ran 4 tests" in ran(project, "manage", "test", "shop.tests", "shop.test_live")
    assert "6 passed" in ran(project, "pytest", "-n", "2")


@needs_live_server
@pytest.mark.parametrize("runner", [("manage", "test", "shop.test_live"), ("pytest", "shop")])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_live_server_that_is_not_forked(project: Path, runner: tuple[str, ...], method: str):
    """Its process has the test's databases, of which Python has told it nothing."""
    (project / "sitecustomize.py").write_text(
        f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n"
    )
    ran(project, *runner)


@needs_live_server
@pytest.mark.parametrize("runner", [("manage", "test", "shop.test_live"), ("pytest", "shop")])
def test_live_server_leaves_nothing(project: Path, runner: tuple[str, ...]):
    """After the page's live server no file of its channels is left."""
    ran(project, *runner)
    assert list(project.glob("*.sqlite3*")) == []


def test_send_before_set_up(project: Path):
    """A send in setUpTestData is refused, as the page says, on a database that others name."""
    databases = project / "databases.py"
    databases.write_text(re.sub(r'"TEST": .*', "", databases.read_text()))
    (project / "shop/test_early.py").write_text(
        "from asgiref.sync import async_to_sync\n"
        "from channels.layers import get_channel_layer\n"
        "from channels_lite.testing import ChannelLayerMixin\n"
        "from django.test import TestCase\n"
        "from django.test.testcases import DatabaseOperationForbidden\n"
        "class Early(ChannelLayerMixin, TestCase):\n"
        "    @classmethod\n"
        "    def setUpTestData(cls):\n"
        "        send = async_to_sync(get_channel_layer().send)\n"
        "        try:\n"
        "            send('plain', {'type': 'order.paid'})\n"
        "        except DatabaseOperationForbidden:\n"
        "            cls.refused = True\n"
        "    def test(self):\n"
        "        self.assertTrue(self.refused)\n"
        "class Other(TestCase):\n"
        "    databases = {'default', 'channels'}\n"
        "    def test(self):\n"
        "        async_to_sync(get_channel_layer().send)('plain', {'type': 'order.paid'})\n"
    )
    assert "Ran 2 tests" in ran(project, "manage", "test", "shop.test_early")


def test_mixin_in_parallel(project: Path):
    """Test processes of Django's runner keep their layers apart."""
    shutil.copy(project / "shop/tests.py", project / "shop/more.py")
    said = ran(project, "manage", "test", "shop.tests", "shop.more", "--parallel", "2")
    assert "Ran 4 tests" in said
