"""Two nodes and an engine on separate machines, and network faults.

The tests compare what each process reports as sent with what the others report as received.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.processes.conftest import (
    TIMEOUT,
    Child,
    child_environment,
    configured,
    end_all,
    wait_until,
)
from tests.processes.conftest import empty_database as empty_database  # noqa: PLC0414 - a fixture
from tests.relay.conftest import ENGINES
from tests.relay.engines import Engine
from tests.relay.network import Network, has_netem, why_not
from tests.relay.test_processes import folders as folders  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.chaos

LAYER = "notify.NotifyChannelLayer"


@pytest.fixture(scope="module")
def _namespaces() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def network(_namespaces: None) -> Iterator[Network]:
    """Three machines."""
    made = Network()
    yield made
    made.close()


@pytest.fixture
def away(network: Network, engine_name: str, tmp_path: Path) -> Iterator[Engine]:
    """The engine on its own machine."""
    engine = network.engine(ENGINES[engine_name], tmp_path / "engine").start()
    yield engine
    engine.kill()


@pytest.fixture
def start(
    network: Network,
    away: Engine,
    folders: dict[str, Path],
) -> Iterator[Callable[..., Child]]:
    """Starts a process on a node."""
    children: list[Child] = []

    def start(node: str, **config: Any) -> Child:
        environment = configured(LAYER, relay=network.url(node, away), **config)
        log = folders[node] / f"{len(children)}.log"
        child = Child(folders[node], log, network.within(node), TEST_LAYER=LAYER, **environment)
        children.append(child)
        return child

    yield start
    end_all(children)


def cut(network: Network, engine: Engine) -> None:
    network.cable("there", "down")
    time.sleep(4)
    network.cable("there", "up")


def cut_for_a_moment(network: Network, engine: Engine) -> None:
    network.cable("there", "down")
    time.sleep(0.5)
    network.cable("there", "up")


def sender_is_cut_off(network: Network, engine: Engine) -> None:
    network.cable("here", "down")
    time.sleep(4)
    network.cable("here", "up")


def deaf(network: Network, engine: Engine) -> None:
    network.lose("there", to_node=True)
    time.sleep(4)
    network.find("there", to_node=True)


def dumb(network: Network, engine: Engine) -> None:
    network.lose("here", to_node=False)
    time.sleep(4)
    network.find("here", to_node=False)


def flapping(network: Network, engine: Engine) -> None:
    for _ in range(6):
        network.cable("there", "down")
        time.sleep(0.3)
        network.cable("there", "up")
        time.sleep(0.4)


def bad_line(network: Network, engine: Engine) -> None:
    if not has_netem():
        pytest.skip("this kernel has no netem, which delays and loses")
    for node in network.NODES:
        network.spoil(node, "delay", "100ms", "loss", "5%")
    time.sleep(5)
    for node in network.NODES:
        network.repair(node)


def killed(network: Network, engine: Engine) -> None:
    engine.kill()
    time.sleep(3)
    engine.start()


def frozen(network: Network, engine: Engine) -> None:
    engine.freeze()
    time.sleep(10)
    engine.thaw()


def half_open(network: Network, engine: Engine) -> None:
    """The engine is another one when the cable is in again, and nobody was told of the first."""
    network.cable("there", "down")
    engine.kill()
    engine.start()
    time.sleep(2)
    network.cable("there", "up")


FAULTS = [cut, cut_for_a_moment, sender_is_cut_off, deaf, dumb, flapping, bad_line, killed, frozen,
          half_open]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault(start, network, away, fault):
    """The node goes on without a loss; nothing comes twice or out of order, and when the fault is
    over everything comes again, without anybody's help."""
    here, near, there = start("here"), start("here"), start("there")
    receivers = {}
    for child in (near, there):
        channel = receivers[child] = child.do("new_channel")
        child.do("group_add", group="room", channel=channel)
        child.do("receive", channel=channel, count=100_000)
    here.begin("send_steadily", channel="room", seconds=13, every=0.005, to_group=True)
    first = [child.messages(10) for child in (near, there)]
    fault(network, away)
    sent = here.finish(60)
    assert not sent["refused"]
    assert not sent["in_doubt"]
    assert sent["slowest"] < 5  # it hung nowhere
    # Back without anybody's help: direct messages are taken again, and then groups' come.
    refused = []
    wait_until(lambda: not refused.append(1) and is_sent(here, receivers[there]))
    here.do("group_send", group="room", message={"type": "end"})
    local, across = [
        [*(message["number"] for message in each), *until_end(child)]
        for each, child in zip(first, (near, there), strict=True)
    ]
    assert local == sent["taken"]
    assert across == sorted(set(across))
    assert set(across) <= set(sent["taken"])
    assert across[:10] == sent["taken"][:10]


def is_sent(child: Child, channel: str) -> bool:
    """Whether a direct message is taken."""
    try:
        child.do("send", channel=channel, message={"type": "direct"})
    except AssertionError:
        return False
    return True


def until_end(child: Child) -> list[int]:
    """The numbers that it has got, up to the message that is the last."""
    found = []
    while (message := child.received()["received"]) != {"type": "end"}:
        if "number" in message:
            found.append(message["number"])
    return found


def test_node_that_is_killed_whole(start, network, away):
    """The other one goes on, and hears its successor."""
    here, there = start("here"), start("there")
    mine = here.do("new_channel")
    here.do("group_add", group="room", channel=mine)
    here.do("receive", channel=mine, count=100)
    theirs = there.do("new_channel")
    there.do("group_add", group="room", channel=theirs)
    there.kill()
    here.do("send", channel=theirs, message={"type": "nobody's"})
    here.do("group_send", group="room", message={"number": 0})
    successor = start("there")
    other = successor.do("new_channel")
    successor.do("group_add", group="room", channel=other)
    successor.do("receive", channel=other, count=2)
    here.do("group_send", group="room", message={"number": 1})
    successor.do("group_send", group="room", message={"number": 2})
    assert sorted(each["number"] for each in here.messages(3)) == [0, 1, 2]
    assert sorted(each["number"] for each in successor.messages(2)) == [1, 2]


def test_jobs_across_a_link_that_flaps(start, network, away):
    """Each job is done once at most; those that were taken are lost only with a connection."""
    here, there, other = start("here"), start("there"), start("there")
    for child in (there, other):
        child.do("receive", channel="jobs", count=100_000)
    here.begin("send_steadily", channel="jobs", seconds=8, every=0.01)
    flapping(network, away)
    sent = here.finish(60)
    found, ended = [], set()

    def both_have_ended() -> bool:
        """Whether each worker has taken a last job, before which it took its others."""
        is_sent(here, "jobs")
        for child in (there, other):
            while child.has_received():
                message = child.received()["received"]
                if "number" in message:
                    found.append(message["number"])
                else:
                    ended.add(child)
        return len(ended) == 2

    wait_until(both_have_ended)
    assert len(found) == len(set(found))
    assert set(found) <= {*sent["taken"], *sent["in_doubt"]}
    # One in each waiting hand, each time the cable was out.
    assert len(set(sent["taken"]) - set(found)) <= 6 * 2


def test_three_nodes(start, network, away):
    """A group on all of them, direct messages around, and jobs that any of them does."""
    children = [start(node) for node in network.NODES]
    channels = []
    for child in children:
        channels.append(child.do("new_channel"))
        child.do("group_add", group="room", channel=channels[-1])
        child.do("receive", channel=channels[-1], count=1000)
    for number, child in enumerate(children):
        child.do("group_send", group="room", message={"number": number})
        child.do("send", channel=channels[number - 1], message={"direct": number})
    for number, child in enumerate(children):
        found = child.messages(4)
        assert sorted(each["number"] for each in found if "number" in each) == [0, 1, 2]
        assert [each["direct"] for each in found if "direct" in each] == [(number + 1) % 3]
    for child in children:
        child.do("receive", channel="jobs", count=1)
    children[0].do("send_many", channel="jobs", count=3)
    assert sorted(child.messages(1)[0]["number"] for child in children) == [0, 1, 2]


CLIENTS = """
import asyncio, json, sys
from websockets.asyncio.client import connect

async def entered(address):
    while True:
        try:
            client = await connect(f"ws://{address}:8000/ws")
        except OSError:
            await asyncio.sleep(0.05)
        else:
            return client, json.loads(await client.recv())["worker"]

async def main():
    clients = [await entered(address) for address in sys.argv[1:]]
    assert len({worker for _, worker in clients}) == len(clients)
    for number, (client, _) in enumerate(clients):
        for each in range(20):
            await client.send(json.dumps({"by": number, "number": each}))
    for client, _ in clients:
        found = [json.loads(await client.recv()) for _ in range(20 * len(clients))]
        for number in range(len(clients)):
            said = [each["number"] for each in found if each["by"] == number]
            assert said == list(range(20)), said

asyncio.run(asyncio.wait_for(main(), 60))
print("all heard all")
"""


def test_servers_on_machines_of_their_own(network, away, folders, tmp_path):
    """WebSocket clients of an ASGI server on each of three nodes hear each other, in order."""
    with ExitStack() as started:
        for node in folders:
            environment = configured(LAYER, relay=network.url(node, away))
            command = ["-m", "uvicorn", "tests.processes.server:application"]
            server = subprocess.Popen(
                [*network.within(node), sys.executable, *command, "--host", "0.0.0.0"],
                env=child_environment(folders[node], TEST_LAYER=LAYER, **environment),
                stderr=subprocess.DEVNULL,
            )
            started.callback(server.wait, TIMEOUT)
            started.callback(server.terminate)
        addresses = [network.address(node) for node in folders]
        done = subprocess.run(
            [*network.within("engine"), sys.executable, "-c", CLIENTS, *addresses],
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.stdout == "all heard all\n", done.stderr
