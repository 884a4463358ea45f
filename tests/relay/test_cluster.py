"""Three NATS servers, one of which is killed: the leader of the stream, or another."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from channels.exceptions import ChannelFull

from channels_lite.errors import StoreUnavailable
from tests.conftest import until
from tests.relay.conftest import needs
from tests.relay.engines import NatsServer, free_port
from tests.relay.test_faults import is_up, sent
from tests.relay.test_history_faults import listen


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    """All three, with a page each that says what they lead."""
    needs("nats")
    routes = [free_port() for _ in range(3)]
    servers = []
    with ExitStack() as started:
        for number, route in enumerate(routes):
            pages = free_port()
            server = NatsServer(
                tmp_path / f"nats-{number}", "--name", f"server-{number}", "--cluster_name", "test",
                "--cluster", f"nats://127.0.0.1:{route}", "-m", str(pages),
                "--routes", ",".join(f"nats://127.0.0.1:{each}" for each in routes),
            )  # fmt: skip
            server.pages = pages
            started.callback(server.kill)
            servers.append(server.start())
        yield servers


def leader_of(stream: str, servers: list[NatsServer]) -> NatsServer | None:
    """The server that leads it, as one of those that live says."""
    for asked in servers:
        with suppress(OSError):
            page = f"http://127.0.0.1:{asked.pages}/jsz?streams=true&accounts=true"
            with urllib.request.urlopen(page, timeout=2) as answer:
                said = json.load(answer)
            for account in said.get("account_details") or ():
                for each in account.get("stream_detail") or ():
                    if each["name"].endswith(stream):
                        name = (each.get("cluster") or {}).get("leader")
                        return next(
                            (s for n, s in enumerate(servers) if name == f"server-{n}"), None
                        )
    return None


@pytest.mark.chaos
@pytest.mark.parametrize("victim", ["leader", "any"])
async def test_server_of_a_cluster_is_killed(make_node, cluster, victim):
    """Jobs go on, none is done twice, and those that were there are there still."""
    url = "nats://" + ",".join(f"127.0.0.1:{each.port}" for each in cluster)
    here, there = make_node("here", url), make_node("there", url)
    await sent(here.send, "jobs", {"number": 0})
    await there.new_channel()
    found = [(await asyncio.wait_for(there.receive("jobs"), 20))["number"]]
    taken, in_doubt, ends = {0}, set(), asyncio.Event()

    async def work(layer):
        while True:
            found.append((await layer.receive("jobs"))["number"])

    async def send():
        number = 1
        while not ends.is_set():
            try:
                await here.send("jobs", {"number": number})
            except StoreUnavailable as error:
                if "all the same" in str(error):
                    in_doubt.add(number)
                await asyncio.sleep(0.02)
            except ChannelFull:
                await asyncio.sleep(0.02)
            else:
                taken.add(number)
            number += 1
            await asyncio.sleep(0.005)

    sending = asyncio.create_task(send())
    workers = [asyncio.create_task(work(layer)) for layer in (here, there, there)]
    await until(lambda: len(found) > 50)
    leader = await asyncio.to_thread(leader_of, "_jobs_100", cluster)
    assert leader is not None
    other = next(each for each in cluster if each is not leader)
    (leader if victim == "leader" else other).kill()
    before = len(found)
    await until(lambda: len(found) > before + 200)
    ends.set()
    await sending
    await is_up(here, there)
    await sent(here.send, "jobs", {"number": -1})
    await until(lambda: -1 in found)
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    assert len(found) == len(set(found))
    assert set(found) - {-1} <= taken | in_doubt
    assert len(taken - set(found)) <= 10  # in hands that were cut off with their server


@pytest.mark.chaos
@pytest.mark.parametrize("victim", ["leader", "any"])
async def test_histories_while_a_server_of_a_cluster_is_killed(make_node, cluster, victim):
    """What was confirmed comes once, in one order, to members on both nodes; nobody is told."""
    url = "nats://" + ",".join(f"127.0.0.1:{each.port}" for each in cluster)
    config = {"group_history": {"chat": {"messages": 100_000, "seconds": 3600}}}
    layers = [make_node(node, url, polling_interval=0.5, **config) for node in ("here", "there")]
    here, there = layers
    await sent(here.group_history, "chat")
    heard = [[], []]
    listening = [await listen(*each) for each in zip(layers, heard, strict=True)]
    confirmed, number, ends = set(), 0, asyncio.Event()

    async def send(layer):
        nonlocal number
        while not ends.is_set():
            mine = number = number + 1
            try:
                await layer.group_send("chat", {"number": mine})
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                confirmed.add(mine)

    sending = [asyncio.create_task(send(layer)) for layer in layers * 2]
    await until(lambda: len(confirmed) > 50)
    leader = await asyncio.to_thread(leader_of, "_histories", cluster)
    other = next(each for each in cluster if each is not leader)
    (leader if victim == "leader" else other).kill()
    before = len(confirmed)
    await until(lambda: len(confirmed) > before + 200)
    ends.set()
    await asyncio.gather(*sending)
    await is_up(*layers)
    await sent(there.group_send, "chat", {"number": -1})
    for each in heard:
        await until(lambda: each[-1]["number"] == -1)  # noqa: B023
    for task in listening:
        task.cancel()
    assert heard[0] == heard[1]
    got = [message["number"] for message in heard[0]][:-1]
    assert len(set(got)) == len(got)
    assert confirmed <= set(got)
    assert all("history_is_complete" not in message for message in heard[0])
