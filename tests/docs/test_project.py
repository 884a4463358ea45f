"""What the pages tell a reader to do, done as a reader would: real processes, real clients."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake

from tests.docs.pages import DOCS, ROOT, Block, blocks, filled
from tests.docs.project import SERVES, TOOLS, Project
from tests.processes.conftest import TIMEOUT, wait_until
from tests.relay.conftest import needs
from tests.relay.engines import NatsServer
from tests.servers.conftest import free_port

# Seconds until all processes of a server answer; each one imports Django.
STARTING = 3 * TIMEOUT


async def enter(project: Project) -> ClientConnection:
    """A client of the chat; the server may still be starting."""
    address = f"127.0.0.1:{project.port}"
    while True:
        try:
            return await connect(f"ws://{address}/ws/", origin=f"http://{address}")
        except (ConnectionError, EOFError, InvalidHandshake):
            await asyncio.sleep(0.05)


async def text(client: ClientConnection) -> str:
    """The next line that ``client`` hears."""
    said = await asyncio.wait_for(client.recv(), TIMEOUT)
    return json.loads(said)["text"]


async def until_heard(client: ClientConnection, line: str) -> None:
    """Returns when ``client`` has heard ``line``."""
    while line not in await text(client):
        pass


async def process_of(client: ClientConnection) -> str:
    """The number of the process that serves ``client``."""
    await client.send(json.dumps({"text": "Where am I?"}))
    return re.search(r"\(process (\d+)\)", await text(client))[1]


async def pair(project: Project, stack: AsyncExitStack) -> list[ClientConnection]:
    """Two clients of two processes."""
    met: dict[str, ClientConnection] = {}
    while len(met) < 2:
        client = await enter(project)
        process = await process_of(client)
        if process in met:
            await client.close()
        else:
            met[process] = await stack.enter_async_context(client)
    return list(met.values())


async def all_hear_each(nodes: list[Project], stack: AsyncExitStack) -> None:
    """Returns when the clients of all nodes have heard each of them."""
    clients = [
        await stack.enter_async_context(await asyncio.wait_for(enter(node), STARTING))
        for node in nodes
    ]
    for client in clients:
        line = f"From {id(client)}"
        await client.send(json.dumps({"text": line}))
        await asyncio.gather(*(until_heard(each, line) for each in clients))


async def test_tutorial(project: Project):
    """Who follows the tutorial has a chat in two processes, and a shell that joins in."""
    steps = blocks(DOCS / "tutorial.md")
    await asyncio.to_thread(project.follow, steps)
    async with AsyncExitStack() as stack:
        clients = await asyncio.wait_for(pair(project, stack), STARTING)
        await clients[0].send(json.dumps({"text": "To the other process"}))
        await asyncio.gather(*(until_heard(each, "To the other process") for each in clients))
        await asyncio.to_thread(project.follow, steps)
        await asyncio.gather(*(until_heard(each, "Hello from the shell!") for each in clients))


def servers() -> list[str]:
    """The commands of the deployment page that serve the chat."""
    found = [command for block in blocks(DOCS / "deployment.md") for command in block.commands]
    return [command for command in found if SERVES.match(command) and "asgi" in command]


@pytest.mark.parametrize("command", servers(), ids=lambda command: command.split()[0])
async def test_servers(chat: Project, command: str):
    """Each server of the deployment page serves the chat; with workers, in two processes."""
    if command.startswith("granian") and sysconfig.get_config_var("Py_GIL_DISABLED"):
        command = command.replace("--workers 4", "")  # they are threads of one process
    await asyncio.to_thread(chat.start, command)
    async with AsyncExitStack() as stack:
        if "--workers" in command:
            clients = await asyncio.wait_for(pair(chat, stack), STARTING)
        else:
            client = await asyncio.wait_for(enter(chat), STARTING)
            clients = [await stack.enter_async_context(client)]
        await clients[0].send(json.dumps({"text": "To all"}))
        await asyncio.gather(*(until_heard(each, "To all") for each in clients))


@pytest.fixture
def nodes(chat: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Project]]:
    """The chat on two machines; the second one has no databases yet."""
    folder = tmp_path_factory.mktemp("second") / "chat"
    copied = shutil.ignore_patterns("*.sqlite3*")
    shutil.copytree(chat.folder, folder, ignore=copied)
    second = Project(folder)
    yield [chat, second]
    second.stop()


def with_relay(project: Project, config: str) -> None:
    """Adds the settings of the page about several machines."""
    with (project.folder / "mysite/settings.py").open("a") as settings:
        settings.write(f'import os\n{config}\nCHANNEL_LAYERS["default"]["CONFIG"] |= CONFIG\n')


async def test_scaling(nodes: list[Project], tmp_path: Path):
    """Who takes the five steps has one chat on two machines."""
    needs("nats")
    steps = blocks(DOCS / "scaling.md")
    start_engine, _install, config, *rest = steps
    [command] = start_engine.commands
    assert command.split() == ["nats-server", "-js"]
    engine = NatsServer(tmp_path / "nats")
    assert "-js" in engine.command()
    migrate, check, serve = rest[:3]
    async with AsyncExitStack() as stack:
        stack.callback(engine.kill)
        await asyncio.to_thread(engine.start)
        for node in nodes:
            with_relay(node, config.code.replace("nats://127.0.0.1:4222", engine.url))
            await asyncio.to_thread(node.run, "python manage.py migrate")
            for command in (*migrate.commands, *check.commands):
                said = await asyncio.to_thread(node.run, command)
            assert "channels_lite.W011" not in said
            await asyncio.to_thread(node.follow, [serve])
        await all_hear_each(nodes, stack)


async def test_compose(nodes: list[Project], tmp_path: Path):
    """What the containers of the page about several machines run makes one chat of two nodes."""
    yaml = pytest.importorskip("yaml")
    needs("nats")
    [page] = [block for block in blocks(DOCS / "scaling.md") if block.language == "yaml"]
    compose = yaml.safe_load(page.code)
    services = compose["services"]
    engine = NatsServer(tmp_path / "nats")
    assert services.pop("engine")["command"] == [each for each in engine.command() if each == "-js"]
    assert {name for each in services.values() for name in each["depends_on"]} == {"engine"}
    volumes = [volume.partition(":")[0] for each in services.values() for volume in each["volumes"]]
    assert volumes == list(compose["volumes"]), "each node has its own"
    [dockerfile] = [block for block in blocks(DOCS / "deployment.md") if "FROM" in block.code]
    [shell, _, command] = json.loads(re.search(r"^CMD (.*)$", dockerfile.code, re.MULTILINE)[1])
    assert shell == "sh"
    async with AsyncExitStack() as stack:
        stack.callback(engine.kill)
        await asyncio.to_thread(engine.start)
        for node, service in zip(nodes, services.values(), strict=True):
            relay = service["environment"]["RELAY"].replace("nats://engine:4222", engine.url)
            node.environment["RELAY"] = relay
            with_relay(node, 'CONFIG = {"relay": os.environ.get("RELAY")}')
            [inside] = [port.partition(":")[2] for port in service["ports"]]
            serve = command.replace("0.0.0.0", f"127.0.0.1 --port {inside}")
            await asyncio.to_thread(node.start, f"{shell} -c '{serve}'")
        await all_hear_each(nodes, stack)


@pytest.mark.skipif(shutil.which("uwsgi", path=TOOLS) is None, reason="no uWSGI")
async def test_wsgi(chat: Project):
    """What a sync view says under uWSGI, as on the deployment page, clients of the chat hear."""
    (chat.folder / "chat/say.py").write_text(
        "from asgiref.sync import async_to_sync\n"
        "from channels.layers import get_channel_layer\n"
        "from django.http import HttpResponse\n\n"
        "def say(request):\n"
        "    send = async_to_sync(get_channel_layer().group_send)\n"
        "    send('room', {'type': 'chat.line', 'text': 'From a view'})\n"
        "    return HttpResponse()\n"
    )
    with (chat.folder / "mysite/urls.py").open("a") as urls:
        urls.write("from chat.say import say\nurlpatterns += [path('say/', say)]\n")
    commands = [command for block in blocks(DOCS / "deployment.md") for command in block.commands]
    [command] = [command for command in commands if command.startswith("uwsgi")]
    port = free_port()
    await asyncio.to_thread(chat.start, servers()[0])
    await asyncio.to_thread(chat.start, command.replace("8001", port))
    client = await asyncio.wait_for(enter(chat), STARTING)

    def is_said() -> bool:
        with suppress(URLError), urlopen(f"http://127.0.0.1:{port}/say/", timeout=TIMEOUT):
            return True
        return False

    await asyncio.to_thread(wait_until, is_said)
    await until_heard(client, "From a view")
    await client.close()


@pytest.mark.skipif(find_spec("celery") is None, reason="Celery is not installed")
async def test_celery(chat: Project):
    """What a task of the deployment page says, in its worker, clients of the chat hear."""
    (chat.folder / "mysite/celery.py").write_text(
        "import os\n"
        "from celery import Celery\n"
        "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')\n"
        "app = Celery('mysite', broker='filesystem://')\n"
        "folders = ('data_folder_in', 'data_folder_out', 'control_folder')\n"
        "app.conf.broker_transport_options = dict.fromkeys(folders, 'broker')\n"
        "app.autodiscover_tasks(['chat'])\n"
    )
    (chat.folder / "mysite/__init__.py").write_text("from mysite.celery import app\n")
    (chat.folder / "broker").mkdir()
    steps = [block for block in blocks(DOCS / "deployment.md") if "shared_task" in block.code]
    chat.follow(steps)
    commands = [command for block in blocks(DOCS / "deployment.md") for command in block.commands]
    [worker] = [command for command in commands if command.startswith("celery")]
    await asyncio.to_thread(chat.start, servers()[0])
    await asyncio.to_thread(chat.start, worker)
    client = await asyncio.wait_for(enter(chat), STARTING)
    message = {"type": "chat.line", "text": "From a task"}
    tell = f"from chat.tasks import tell; tell.delay('room', {message})"
    await asyncio.to_thread(chat.run, f'python manage.py shell -c "{tell}"')
    await asyncio.wait_for(until_heard(client, "From a task"), STARTING)
    await client.close()


async def test_recipes(chat: Project):
    """A view streams, a command speaks, and a worker does what was committed."""
    steps = blocks(DOCS / "recipes.md")
    await asyncio.to_thread(chat.follow, steps)  # up to the worker, which runs now
    await asyncio.to_thread(chat.start, servers()[0])
    client = await asyncio.wait_for(enter(chat), STARTING)
    reader, writer = await asyncio.open_connection("127.0.0.1", chat.port)
    try:
        writer.write(b"GET /events/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b": you are in\n\n"), TIMEOUT)
        await asyncio.to_thread(chat.follow, steps)
        noted = "A note of 3 words: Buy some milk"
        await until_heard(client, noted)
        await asyncio.wait_for(reader.readuntil(f'data: "{noted}"\n\n'.encode()), TIMEOUT)
        await asyncio.to_thread(chat.run, 'python manage.py say "Good morning"')
        await asyncio.wait_for(reader.readuntil(b'data: "Good morning"\n\n'), TIMEOUT)
        await until_heard(client, "Good morning")
        tell = "import asyncio; from chat.lines import tell; print(asyncio.run(tell('Hello')))"
        told = await asyncio.to_thread(chat.run, f'python manage.py shell -c "{tell}"')
        await until_heard(client, "Hello")
        assert told.count("specific.") == 2  # the client, and the stream
        (chat.folder / "announced.py").write_text(
            "from django.db import transaction\n"
            "from chat.notes import announce\n"
            "with transaction.atomic():\n"
            "    announce('rolled back')\n"
            "    transaction.set_rollback(True)\n\n"
            "announce('committed')\n"
        )
        await asyncio.to_thread(chat.run, "python manage.py shell < announced.py")
        assert await text(client) == "committed"
    finally:
        writer.close()
        await client.close()


async def test_recipes_of_streams(chat: Project):
    """Tokens of a worker and a consumer, and a job's progress, come; presence is counted."""
    steps = blocks(DOCS / "recipes.md")
    for _ in ("notes", "answers"):  # up to each worker, which runs then
        await asyncio.to_thread(chat.follow, steps)
    await asyncio.to_thread(chat.follow, steps)
    await asyncio.to_thread(chat.start, servers()[0])
    address = f"127.0.0.1:{chat.port}"
    async with AsyncExitStack() as stack:
        client = await asyncio.wait_for(enter(chat), STARTING)
        await client.close()

        async def opened(path: str) -> ClientConnection:
            url = f"ws://{address}/ws/{path}/"
            return await stack.enter_async_context(connect(url, origin=f"http://{address}"))

        async def heard(client: ClientConnection) -> dict[str, object]:
            # The worker may still be starting.
            return json.loads(await asyncio.wait_for(client.recv(), STARTING))

        for path in ("answers/seven", "direct/eight"):
            asking, second_tab = await opened(path), await opened(path)
            await asking.send(json.dumps({"prompt": "Why?"}))
            for each in (asking, second_tab):
                said = [await heard(each) for _ in range(4)]
                words = ("You", "asked:", "Why?")
                assert said == [*({"token": word} for word in words), {"done": True}]
        here = await opened("here")
        assert await heard(here) == {"here": 1}
        async with connect(f"ws://{address}/ws/here/", origin=f"http://{address}"):
            assert await heard(here) == {"here": 2}
        assert await heard(here) == {"here": 1}
        for _ in range(5):  # each has gone before it hears of itself
            async with connect(f"ws://{address}/ws/here/", origin=f"http://{address}"):
                pass
        assert [await heard(here) for _ in range(10)][-1] == {"here": 1}
        reader, writer = await asyncio.open_connection("127.0.0.1", chat.port)
        writer.write(b"GET /jobs/7/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b": you are in\n\n"), TIMEOUT)
        await asyncio.to_thread(
            chat.run, 'python manage.py shell -c "from chat.jobs import run; run(7)"'
        )
        for percent in (0, 50, 100):
            line = f'data: <progress value="{percent}" max="100"></progress>\n\n'
            await asyncio.wait_for(reader.readuntil(line.encode()), TIMEOUT)
        await asyncio.wait_for(reader.readuntil(b"event: done\n"), TIMEOUT)
        writer.close()


def test_rolled_back_note_is_not_told_of(chat: Project):
    """The recipe sends nothing for a note whose transaction is rolled back."""
    chat.follow(blocks(DOCS / "recipes.md"))
    chat.stop()
    (chat.folder / "rolled_back.py").write_text(
        "from django.db import transaction\n"
        "from channels_lite.models import Event\n"
        "from chat.notes import add_note\n"
        "try:\n"
        "    with transaction.atomic():\n"
        "        add_note('gone')\n"
        "        raise ValueError\n"
        "except ValueError:\n"
        "    add_note('kept')\n"
        "print('messages:', Event.objects.filter(channel_name='notes').count())\n"
    )
    assert "messages: 1\n" in chat.run("python manage.py shell < rolled_back.py")


@pytest.mark.parametrize("page", ["checks.md", "deployment.md", "troubleshooting.md"])
def test_commands(chat: Project, page: str):
    """Commands of the other pages do their work in the tutorial's project."""
    steps = [block for block in blocks(DOCS / page) if block.language in {"console", "python"}]
    chat.follow(
        step
        for step in steps
        if not any(map(SERVES.match, step.commands)) and "litestream" not in step.code
    )


def test_readme(project: Project):
    """The settings and the migration of the README make a layer that carries a message."""
    settings = next(blocks(ROOT / "README.md"))
    project.run("django-admin startproject mysite .")
    with (project.folder / "mysite/settings.py").open("a") as file:
        file.write(filled(settings.code))
    [migrate] = [
        command
        for block in blocks(ROOT / "README.md")
        for command in block.commands
        if "manage.py" in command
    ]
    project.run(migrate)
    project.run(
        "DJANGO_SETTINGS_MODULE=mysite.settings python -c '"
        "import asyncio, django; django.setup()\n"
        "from channels.layers import get_channel_layer as layer\n"
        'asyncio.run(layer().send("a", {"type": "b"}))\n'
        'assert asyncio.run(layer().receive("a")) == {"type": "b"}\''
    )


def test_absent_file_needs_migrate_and_no_restart(chat: Project):
    """As the deployment page says: without its file the layer names the command that mends it."""
    for path in chat.folder.glob("channels.sqlite3*"):
        path.unlink()
    hello = "python manage.py shell < hello.py"
    assert "run manage.py migrate channels_lite --database=channels" in chat.run(f"{hello} || true")
    [migrate] = {
        command
        for block in blocks(DOCS / "deployment.md")
        for command in block.commands
        if "--database" in command
    }
    chat.run(migrate)
    chat.run(hello)


@pytest.mark.skipif(shutil.which("litestream", path=TOOLS) is None, reason="no Litestream")
def test_litestream(chat: Project):
    """The backup of the deployment page brings the project's data back, and the channels' file."""
    here = {
        "/etc/": f"{chat.folder}/",
        "/var/lib/chat": str(chat.folder),
        "s3://backups/chat": (chat.folder / "replica").as_uri(),
    }
    pattern = re.compile("|".join(map(re.escape, here)))
    configuration, replication, recovery = (
        replace(block, code=pattern.sub(lambda found: here[found[0]], block.code))
        for block in blocks(DOCS / "deployment.md")
        if "litestream" in block.code
    )
    users = 'python manage.py shell -c "from django.contrib.auth.models import User; {}"'
    hello = "python manage.py shell < hello.py"
    copy = chat.folder / "copy"
    restore = recovery.commands[0].replace("restore", f"restore -o {copy}")

    def is_anna_safe() -> bool:
        copy.unlink(missing_ok=True)
        chat.run(f"{restore} || true")  # fails as long as there is no snapshot
        return copy.exists() and b"anna" in copy.read_bytes()

    chat.follow([configuration, replication])
    chat.run(users.format("User.objects.create(username='anna')"))
    chat.run(hello)
    wait_until(is_anna_safe)
    chat.stop()
    chat.run("rm -r *.sqlite3* .db.sqlite3-litestream")
    chat.follow([recovery])
    assert "anna" in chat.run(users.format("print(User.objects.get())"))
    chat.run(hello)


@pytest.mark.parametrize(
    ("command", "origin"),
    [
        ("manage.py test", "http://testserver"),
        ("-m pytest --ds mysite.settings chat/tests.py", "http://localhost"),
    ],
)
def test_origin_of_a_test(chat: Project, command: str, origin: str):
    """A test connects to the consumer of the tutorial with the origin that the page names."""
    assert origin in (DOCS / "testing.md").read_text()
    (chat.folder / "chat/tests.py").write_text(
        "from channels.testing import WebsocketCommunicator\n"
        "from channels_lite.testing import ChannelLayerMixin\n"
        "from django.test import TestCase\n"
        "from mysite.asgi import application\n\n"
        "class ChatTests(ChannelLayerMixin, TestCase):\n"
        "    async def test_connects(self):\n"
        f"        headers = [(b'origin', b'{origin}')]\n"
        "        browser = WebsocketCommunicator(application, '/ws/', headers=headers)\n"
        "        connected, _ = await browser.connect()\n"
        "        assert connected\n"
        "        await browser.disconnect()\n"
    )
    chat.run(f"python {command}")


def test_messages_are_moved_to_a_database_that_was_migrated_without_them(chat: Project):
    """The way out that the troubleshooting page shows when migrate has nothing to apply."""
    with (chat.folder / "mysite/settings.py").open("a") as settings:
        settings.write('CHANNEL_LAYERS["default"]["CONFIG"]["database"] = "default"\n')
    hello = "python manage.py shell < hello.py"
    assert "No migrations to apply" in chat.run("python manage.py migrate")
    assert "lacks the tables" in chat.run(f"{hello} || true")
    [fix] = [block for block in blocks(DOCS / "troubleshooting.md") if "--fake" in block.code]
    chat.follow([fix])
    chat.run(hello)


def unit() -> Block:
    """The systemd unit of the deployment page."""
    [block] = [block for block in blocks(DOCS / "deployment.md") if block.language == "ini"]
    return block


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_unit(tmp_path: Path):
    """systemd takes the unit of the deployment page without a complaint."""
    unit_file = tmp_path / "chat.service"
    # What it runs, and as whom, is not on this machine.
    code = re.sub(r"/srv/chat/\.venv/bin/\w+", "/bin/true", unit().code)
    unit_file.write_text(code.replace("User=chat", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit_file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
