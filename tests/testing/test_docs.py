"""docs/testing.md, followed to the letter in the tutorial's project."""

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

from tests.docs.pages import DOCS, ROOT, blocks
from tests.docs.project import SERVES, Project

pytestmark = pytest.mark.xdist_group("testing")

PAGE = DOCS / "testing.md"
COMMAND = "chat/management/commands/say.py"


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat of the tutorial, a command of the recipes, and every block of the page."""
    chat = Project(tmp_path_factory.mktemp("chat"))
    steps = blocks(DOCS / "tutorial.md")
    chat.follow(step for step in steps if not any(map(SERVES.match, step.commands)))
    [command] = [each for each in blocks(DOCS / "recipes.md") if COMMAND in each.code]
    chat.follow([command, *blocks(PAGE)])
    return chat.folder


@pytest.fixture
def project(followed: Path, tmp_path: Path) -> Path:
    """A copy of that, to change and to run."""
    return shutil.copytree(followed, tmp_path / "project")


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
        env=environment | {"PYTHONPATH": f"{project}{os.pathsep}{ROOT}"},
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
    tests = project / "chat/tests.py"
    tests.write_text(re.sub(r"\bTestCase\b", engine, tests.read_text()))
    assert "Ran 2 tests" in ran(project, "manage", "test", "chat.tests")


@pytest.mark.parametrize("layer", ["core.SQLite", "aio.AIOSQLite", "notify.Notify"])
@pytest.mark.parametrize("database", ["default", "channels"])
def test_mixin_on_files(project: Path, layer: str, database: str):
    """Each layer, on the models' database or its own, really sends inside a TestCase."""
    settings = project / "mysite/settings.py"
    text = settings.read_text().replace("notify.Notify", layer)
    settings.write_text(text.replace('"database": "channels"', f'"database": "{database}"'))
    (project / "chat/test_heard.py").write_text(
        "import sqlite3\n"
        "from contextlib import closing\n"
        "from asgiref.sync import async_to_sync\n"
        "from channels_lite.testing import ChannelLayerMixin\n"
        "from django.contrib.auth.models import User\n"
        "from django.core.management import call_command\n"
        "from django.db import connections, transaction\n"
        "from django.test import TestCase\n"
        "class Heard(ChannelLayerMixin, TestCase):\n"
        "    def test(self):\n"
        "        async_to_sync(self.channel_layer.group_add)('room', 'plain')\n"
        "        with transaction.atomic():\n"
        "            User.objects.create(username='anna')\n"
        "            call_command('say', 'Hello')\n"
        "        file = connections.settings[self.channel_layer.database]['NAME']\n"
        "        with closing(sqlite3.connect(file)) as other:\n"
        "            count = 'SELECT count(*) FROM channels_lite_event'\n"
        "            self.assertEqual(other.execute(count).fetchone(), (1,))\n"
        "        message = async_to_sync(self.channel_layer.receive)('plain')\n"
        "        self.assertEqual(message, {'type': 'chat.line', 'text': 'Hello'})\n"
        "        with self.assertRaisesRegex(AssertionError, \"text='Bye' .*'text': 'Hello'\"):\n"
        "            self.assert_sent('room', text='Bye')\n"
        "        with self.assertRaisesRegex(AssertionError, 'but .*chat.line'):\n"
        "            self.assert_nothing_sent()\n"
    )
    assert "Ran 3 tests" in ran(project, "manage", "test", "chat.tests", "chat.test_heard")


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("--no-migrations",)])
def test_fixtures(project: Path, arguments: tuple[str, ...]):
    """The page's fixtures work, in parallel and without migrations, too."""
    assert "4 passed" in ran(project, "pytest", "test_chat.py", "chat/tests.py", *arguments)


def test_fixtures_on_djangos_connection(project: Path):
    """No guard of Django or pytest-django keeps the core layer from its file."""
    settings = project / "mysite/settings.py"
    settings.write_text(settings.read_text().replace("notify.Notify", "core.SQLite"))
    assert "4 passed" in ran(project, "pytest", "test_chat.py", "chat/tests.py")


needs_live_server = pytest.mark.skipif(
    django.VERSION >= (5, 2) and channels.__version__ < "4.3",
    reason="Channels' own test case knows Django 5.2 from 4.3 on (channels issue 2148)",
)


@needs_live_server
def test_live_server_beside_fresh_layers(project: Path):
    """The page's browsers hear the test and each other through the server; the mixin works.

    No file of the test's databases is left.
    """
    assert "Ran 4 tests" in ran(project, "manage", "test", "chat.tests", "chat.test_live")
    assert list(project.glob("test-*.sqlite3*")) == []
    assert "6 passed" in ran(project, "pytest", "-n", "2")
    assert list(project.glob("test-*.sqlite3*")) == []


@needs_live_server
@pytest.mark.parametrize("runner", [("manage", "test", "chat.test_live"), ("pytest", "chat")])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_live_server_that_is_not_forked(project: Path, runner: tuple[str, ...], method: str):
    """Its process has the test's databases, of which Python has told it nothing.

    No file of them is left.
    """
    (project / "sitecustomize.py").write_text(
        f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n"
    )
    ran(project, *runner)
    assert list(project.glob("test-*.sqlite3*")) == []


def test_send_before_set_up(project: Path):
    """A send in setUpTestData is refused, as the page says, on a database that others name."""
    settings = project / "mysite/settings.py"
    settings.write_text(re.sub(r'.*\["TEST"\] = .*', "", settings.read_text()))
    (project / "chat/test_early.py").write_text(
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
        "            send('plain', {'type': 'chat.line'})\n"
        "        except DatabaseOperationForbidden:\n"
        "            cls.refused = True\n"
        "    def test(self):\n"
        "        self.assertTrue(self.refused)\n"
        "class Other(TestCase):\n"
        "    databases = {'default', 'channels'}\n"
        "    def test(self):\n"
        "        async_to_sync(get_channel_layer().send)('plain', {'type': 'chat.line'})\n"
    )
    assert "Ran 2 tests" in ran(project, "manage", "test", "chat.test_early")


def test_mixin_in_parallel(project: Path):
    """Test processes of Django's runner keep their layers apart."""
    shutil.copy(project / "chat/tests.py", project / "chat/more.py")
    said = ran(project, "manage", "test", "chat.tests", "chat.more", "--parallel", "2")
    assert "Ran 4 tests" in said
