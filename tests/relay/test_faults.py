"""An engine that is away, killed, frozen, or none of ours; everything on the node goes on."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import socket
import ssl
import time
from contextlib import closing, suppress
from unittest.mock import AsyncMock, Mock

import pytest
from channels.exceptions import ChannelFull

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import connection, deadline
from channels_lite.relay.deadline import DEADLINE
from channels_lite.relay.nats.client import OrderedClient
from channels_lite.relay.redis import exchange
from tests.conftest import TIMEOUT, received, until
from tests.relay.engines import NatsServer, RedisServer


async def is_up(*layers):
    for layer in layers:
        await until(lambda: layer._engine.relay.connection.is_up)  # noqa: B023


async def restart(engine, *layers):
    """Kills the engine, and starts it again; returns when it is up for these layers."""
    losses = [layer._engine.relay.connection.losses for layer in layers]
    engine.kill()
    for layer, before in zip(layers, losses, strict=True):
        await until(lambda: layer._engine.relay.connection.losses > before)  # noqa: B023
    engine.start()
    await is_up(*layers)


async def sent(send, *what):
    """Sends until it is taken; how often it was refused."""
    refused, deadline = 0, time.monotonic() + TIMEOUT
    while True:
        try:
            await send(*what)
        except StoreUnavailable:
            refused += 1
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        else:
            return refused


async def goes_on(layer):
    """Everything on the node works: direct, groups, joining and leaving."""
    one, two = await layer.new_channel(), await layer.new_channel()
    for number in range(20):
        await layer.group_add("local", one)
        await layer.send(two, {"number": number})
        await layer.group_send("local", {"number": number})
        assert await received(layer, two) == {"number": number}
        assert await received(layer, one) == {"number": number}
        await layer.group_discard("local", one)


def as_from_elsewhere(layer):
    """A channel of a node that is not there."""
    return f"specific.{'0' * 32}!1"


async def test_engine_that_is_away_at_start(make_node, engine_name, tmp_path, caplog):
    """One warning; the node goes on; what must leave is refused; it is there when it is started."""
    engine = {"nats": NatsServer, "redis": RedisServer}[engine_name](tmp_path / "late")

    def warnings():
        return [each for each in caplog.messages if "are missed or refused" in each]

    caplog.set_level(logging.INFO, "channels_lite.relay")  # why it is still away, if it fails
    here, there = make_node("here", engine.url), make_node("there", engine.url)
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await goes_on(here)
    for send, name in ((here.send, channel), (here.send, "jobs")):
        with pytest.raises(StoreUnavailable, match="is away"):
            await send(name, {"type": "x"})
    with pytest.raises(StoreUnavailable, match="is away"):
        await here.group_add("room", "jobs")
    before = here.stats.relay_missed
    await here.group_send("room", {"type": "missed"})
    assert here.stats.relay_missed == before + 1
    await until(lambda: len(warnings()) == 2)
    engine.start()
    try:
        await is_up(here, there)
        await here.group_send("room", {"number": 1})
        await here.send(channel, {"number": 2})
        assert [await received(there, channel) for _ in range(2)] == [{"number": 1}, {"number": 2}]
        await here.send("jobs", {"number": 3})
        assert await received(there, "jobs") == {"number": 3}
        assert len(warnings()) == 2
    finally:
        engine.kill()


async def test_link_that_is_being_closed_as_the_layer_ends():
    """The engine was lost a moment before: the sockets are closed all the same."""
    links, owner = [], AsyncMock(connection.Owner)

    class Link:
        engine, lack = "an engine", ""

        def __init__(self, settings, listener):
            self.lost, self.is_closed = asyncio.get_running_loop().create_future(), False
            self.is_closing, self.goes_on = asyncio.Event(), asyncio.Event()
            links.append(self)

        async def open(self, subjects):
            self.lost.set_result("it was killed")

        async def close(self):
            self.is_closing.set()
            await self.goes_on.wait()
            self.is_closed = True

    keeping_open = connection.Connection(Mock(), Link, Mock(), owner).begin(None)
    running = asyncio.ensure_future(keeping_open)
    await until(lambda: links)
    await links[0].is_closing.wait()
    running.cancel()
    await asyncio.wait([running], timeout=0)  # it may begin to end
    links[0].goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert links[0].is_closed


async def test_engine_that_stands_still_as_it_is_connected_to(make_node, own_engine, monkeypatch):
    """The last subscriptions are not waited for without an end: the address may have moved on."""
    here = make_node("here", own_engine.url)
    relay = here._engine.relay
    complete, attempts = relay.groups.complete, []

    async def freeze_and_complete(link):
        attempts.append(link)
        if len(attempts) == 1:
            relay.groups._entering["room"] += 1
            own_engine.freeze()
        await complete(link)

    monkeypatch.setattr(relay.groups, "complete", freeze_and_complete)
    await here.new_channel()
    relay.start()
    await until(lambda: "has not answered" in relay.connection.reason)
    own_engine.thaw()
    await is_up(here)
    assert len(attempts) == 2


async def test_group_add_waits_until_it_is_subscribed(make_node, own_engine, monkeypatch):
    """It returns when the engine has confirmed that messages will come, and not before."""
    monkeypatch.setattr(deadline, "DEADLINE", TIMEOUT)
    here, there = make_node("here", own_engine.url), make_node("there", own_engine.url)
    channel = await there.new_channel()
    await here.new_channel()
    own_engine.freeze()
    joining = asyncio.create_task(there.group_add("room", channel))
    await asyncio.wait([joining], timeout=0.3)  # as long as it should not return
    has_returned = joining.done()
    own_engine.thaw()
    await joining
    assert not has_returned
    await here.group_send("room", {"number": 1})
    assert await received(there, channel) == {"number": 1}


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_engine_that_goes_and_comes_back(make_node, own_engine, fault, monkeypatch):
    """The node goes on; a send that must leave is refused; then all is there again by itself."""
    monkeypatch.setattr(deadline, "DEADLINE", 0.4)
    monkeypatch.setattr(connection, "PING_EVERY", 0.2)
    here, there = make_node("here", own_engine.url), make_node("there", own_engine.url)
    channel, mine = await there.new_channel(), await here.new_channel()
    await there.group_add("room", channel)
    worker = asyncio.create_task(there.receive("jobs"))
    await here.send(channel, {"number": 0})
    assert await received(there, channel) == {"number": 0}
    own_engine.kill() if fault == "killed" else own_engine.freeze()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(here.send(channel, {"type": "lost"}), 3 * DEADLINE)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(here.send("jobs", {"type": "lost"}), 3 * DEADLINE)
        await asyncio.wait_for(here.group_send("room", {"type": "lost"}), 3 * DEADLINE)
        await goes_on(here)
    assert here.stats.relay_missed
    late = await there.new_channel()
    await there.group_add("late", late)
    if fault == "frozen":
        await until(lambda: here._engine.relay.connection.losses)
        await until(lambda: there._engine.relay.connection.losses)
        own_engine.thaw()
    else:
        own_engine.start()
    # Who counts as back hears what is sent to it.
    await sent(there.send, mine, {"type": "back"})
    while await received(here, mine) != {"type": "back"}:
        pass
    await sent(here.group_send, "late", {"number": 1})
    await sent(here.send, late, {"number": 2})
    found = [await received(there, late)]
    if found == [{"number": 1}]:
        found.append(await received(there, late))
    assert found[-1] == {"number": 2}
    await sent(here.send, "jobs", {"number": 3})
    job = await asyncio.wait_for(worker, TIMEOUT)
    assert job in ({"number": 3}, {"type": "lost"})


async def test_who_is_back_is_subscribed(make_node, own_engine):
    """A process whose send is taken hears the answer, however soon it comes, each time."""
    here, there = make_node("here", own_engine.url), make_node("there", own_engine.url)
    mine, theirs = await here.new_channel(), await there.new_channel()
    await there.group_add("room", theirs)
    for number in range(3):
        own_engine.kill()
        await until(lambda: not there._engine.relay.connection.is_up)
        await until(lambda: not here._engine.relay.connection.is_up)
        own_engine.start()
        await is_up(here)
        await sent(there.send, mine, {"number": number})
        assert await received(here, mine) == {"number": number}
        await here.group_send("room", {"number": number})
        assert await received(there, theirs) == {"number": number}


async def test_group_joined_while_the_link_is_opened(make_node, own_engine, monkeypatch):
    """It is subscribed to before the link counts as up, though the link began without it."""
    here, there = make_node("here", own_engine.url), make_node("there", own_engine.url)
    await here.new_channel()
    channel = await there.new_channel()
    own_engine.kill()
    await until(lambda: not there._engine.relay.connection.is_up)
    groups, opens, loop = there._engine.relay.groups, asyncio.Event(), asyncio.get_running_loop()
    complete = groups.complete

    async def complete_later(link):
        loop.call_soon_threadsafe(opens.set)
        await until(lambda: there._engine.roster.has_members("late"))
        await complete(link)

    monkeypatch.setattr(groups, "complete", complete_later)
    own_engine.start()
    await opens.wait()
    await there.group_add("late", channel)
    await is_up(here, there)
    await here.group_send("late", {"number": 1})
    assert await received(there, channel) == {"number": 1}


@pytest.mark.parametrize("engine_name", ["nats"], indirect=True)
async def test_link_that_is_lost_does_nothing_more(make_node, engine):
    """What tries again until it succeeds ends with the link, even if it was not cancelled."""
    here = make_node("here", engine.url)
    await here.new_channel()
    relay = here._engine.relay
    link = relay.connection.link

    async def lose():
        link._lose("cut")
        await asyncio.wait_for(link._members.make(), 1)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(asyncio.wrap_future(link.want("jobs", 100, 1)), 1)

    await relay.call(lose)


async def test_nothing_comes_twice(make_node, own_engine):
    """An engine that is killed again and again: in order, nothing twice, and what was taken while
    it was up is there."""
    here, there = make_node("here", own_engine.url), make_node("there", own_engine.url)
    channel = await there.new_channel()
    await there.group_add("room", channel)
    taken, in_doubt, ends = [], [], asyncio.Event()

    async def send():
        number = 0
        while not ends.is_set():
            message = {"number": number}
            try:
                await here.send(channel, message)
            except StoreUnavailable as error:
                if "all the same" in str(error):
                    in_doubt.append(number)
                await asyncio.sleep(0.005)
            else:
                taken.append(number)
            number += 1
            await asyncio.sleep(0.001)
        await sent(here.send, channel, {"number": number})
        return number

    sending = asyncio.create_task(send())
    for turn in range(1, 4):
        await until(lambda: len(taken) > 50 * turn)  # noqa: B023
        await restart(own_engine, here, there)
    await until(lambda: len(taken) > 200)
    ends.set()
    last = await sending
    found = []
    while not found or found[-1] != last:
        found.append((await received(there, channel))["number"])
    assert found == sorted(set(found))
    assert set(found) <= {*taken, *in_doubt, last}
    # Lost is only what the engine had, and was killed with.
    assert len(set(taken) - set(found)) <= 10 * 3


async def test_jobs_are_nobodys_twice(make_node, own_engine):
    """The same for jobs: those in an engine that is killed are lost with it, none comes twice."""
    here, there = make_node("here", own_engine.url), make_node("there", own_engine.url)
    found, ends = [], asyncio.Event()

    async def work(layer):
        while True:
            found.append((await layer.receive("jobs"))["number"])

    async def send():
        number = 0
        while not ends.is_set():
            with suppress(StoreUnavailable, ChannelFull):
                await here.send("jobs", {"number": number})
            number += 1
            await asyncio.sleep(0.002)
        return number

    workers = [asyncio.create_task(work(layer)) for layer in (here, there, there)]
    sending = asyncio.create_task(send())
    for turn in range(1, 3):
        await until(lambda: len(found) > 50 * turn)  # noqa: B023
        await restart(own_engine, here, there)
    ends.set()
    last = await sending
    await sent(here.send, "jobs", {"number": last})
    await until(lambda: last in found)
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    assert len(found) == len(set(found))


@pytest.fixture
def certificate(tmp_path):
    """One that nobody has signed, for 127.0.0.1."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "engine")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


async def reason_of(layer):
    """Why its engine is away; it is not waited for."""
    await layer.new_channel()
    relay = layer._engine.relay
    await until(lambda: relay.connection.reason not in ("", "it was not connected to yet"))
    return relay.connection.reason


async def test_wrong_login(make_node, engine_name, tmp_path, caplog):
    """Refused, with the keys to look at; the right one is taken."""
    if engine_name == "nats":
        engine = NatsServer(tmp_path / "own", "--user", "me", "--pass", "right", login="me:right@")
    else:
        engine = RedisServer(tmp_path / "own", "--requirepass", "right", login=":right@")
    engine.start()
    try:
        wrong = make_node("here", engine.url.replace("right", "wrong"))
        assert "refuses the login" in await reason_of(wrong)
        without = make_node("here", f"{engine.scheme}://127.0.0.1:{engine.port}")
        assert "refuses the login" in await reason_of(without)
        assert "wrong" not in caplog.text
        here, there = make_node("here", engine.url), make_node("there", engine.url)
        channel = await there.new_channel()
        await here.send(channel, {"type": "x"})
        assert await received(there, channel) == {"type": "x"}
    finally:
        engine.kill()


async def test_wrong_port(make_node, engine_name, monkeypatch):
    """Nothing listens there, or something else does."""
    module = {"nats": "nats.servers", "redis": "redis.client"}[engine_name]
    monkeypatch.setattr(f"channels_lite.relay.{module}.STEP", 0.1)
    scheme = {"nats": "nats", "redis": "redis"}[engine_name]
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        nothing = make_node("here", f"{scheme}://127.0.0.1:{port}")
        assert str(port) in await reason_of(nothing)
        taken.listen()
        silent = make_node("here", f"{scheme}://127.0.0.1:{port}")
        assert "did not answer" in await reason_of(silent)


async def test_another_server(make_node, engine_name):
    """One that talks otherwise is said to be none."""

    async def talk(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scheme = {"nats": "nats", "redis": "redis"}[engine_name]
    try:
        reason = await reason_of(make_node("here", f"{scheme}://127.0.0.1:{port}"))
        assert "no NATS server" in reason or "no Redis" in reason
    finally:
        server.close()


async def test_certificate_that_does_not_verify(make_node, engine_name, tmp_path, certificate):
    """It is refused, with the option that mends it; and with that taken, again after a restart."""
    cert, key = map(str, certificate)
    if engine_name == "nats":
        engine = NatsServer(tmp_path / "own", "--tls", "--tlscert", cert, "--tlskey", key)
        url = engine.url
        trust = {"tls": ssl.create_default_context(cafile=cert)}
    else:
        engine = RedisServer(tmp_path / "own")
        tls_port, engine.port = engine.port, 0
        engine._arguments = ("--tls-port", str(tls_port), "--tls-cert-file", cert,
                             "--tls-key-file", key, "--tls-auth-clients", "no")  # fmt: skip
        url = f"rediss://127.0.0.1:{tls_port}"
        trust = {"ssl_ca_certs": cert}
    engine.start()
    try:
        reason = await reason_of(make_node("here", url))
        assert "certificate" in reason
        assert "relay_options" in reason
        here, there = [make_node(each, url, relay_options=trust) for each in ("here", "there")]
        channel = await there.new_channel()
        await here.send(channel, {"type": "x"})
        assert await received(there, channel) == {"type": "x"}
        await restart(engine, here, there)
        await here.send(channel, {"type": "y"})
        assert await received(there, channel) == {"type": "y"}
    finally:
        engine.kill()


@pytest.mark.parametrize("engine_name", ["nats"], indirect=True)
async def test_nats_without_jetstream(make_node, engine_name, tmp_path, caplog):
    """Channels and groups work; plain channels say what they need."""

    class Plain(NatsServer):
        def command(self):
            return ["-a", "127.0.0.1", "-p", str(self.port)]

    engine = Plain(tmp_path / "plain").start()
    try:
        here, there = make_node("here", engine.url), make_node("there", engine.url)
        channel = await there.new_channel()
        await there.group_add("room", channel)
        await here.send(channel, {"number": 1})
        await here.group_send("room", {"number": 2})
        assert [await received(there, channel) for _ in range(2)] == [{"number": 1}, {"number": 2}]
        with pytest.raises(StoreUnavailable, match="-js"):
            await here.send("jobs", {"type": "x"})
        with pytest.raises(StoreUnavailable, match="-js"):
            await here.group_add("room", "jobs")
        assert "-js" in caplog.text
    finally:
        engine.kill()


@pytest.mark.parametrize("engine_name", ["nats"], indirect=True)
async def test_nats_that_asks_who_is_there(make_node, engine_name, tmp_path, monkeypatch):
    """A server closes a connection on which its pings are not answered."""
    config = tmp_path / "nats.conf"
    config.write_text('ping_interval: "50ms"\nping_max: 1\n')
    answered = []
    process_ping = OrderedClient._process_ping

    async def count(client):
        await process_ping(client)
        answered.append(client)

    monkeypatch.setattr(OrderedClient, "_process_ping", count)
    server = NatsServer(tmp_path / "pings", "-c", str(config)).start()
    try:
        here = make_node("here", server.url)
        await here.new_channel()
        await until(lambda: len(answered) >= 10)
        assert here._engine.relay.connection.losses == 0
    finally:
        server.kill()


@pytest.mark.parametrize("engine_name", ["redis"], indirect=True)
async def test_answers_after_one_of_two_connections_is_lost(make_node, engine, caplog):
    """They are answers to nobody; it connects again, and nothing is logged but a warning."""
    here = make_node("here", engine.url)
    await here.new_channel()
    await is_up(here)
    link = here._engine.relay.connection.link

    async def lose():
        for _ in range(3):
            link._pipeline.ask("PING")
        await asyncio.sleep(0)  # they are written
        link._lose("the other connection is lost")
        link._pipeline.ask("PING")

    await here._engine.relay.call(lose)
    await until(lambda: here._engine.relay.connection.losses)
    await is_up(here)
    gc.collect()
    assert {each.name for each in caplog.records} <= {connection.__name__}


async def test_fault_of_a_link_is_not_the_end(make_node, own_engine, monkeypatch, caplog):
    """It is logged, and the engine is connected to again."""
    here = make_node("here", own_engine.url)
    await here.new_channel()
    await is_up(here)
    link_class = type(here._engine.relay.connection.link)
    close, faults = link_class.close, []

    async def fail_once(link):
        await close(link)
        if not faults:
            faults.append(link)
            raise RuntimeError("a fault")

    monkeypatch.setattr(link_class, "close", fail_once)
    await restart(own_engine, here)
    assert faults
    assert "has a fault" in caplog.text


@pytest.mark.parametrize("engine_name", ["nats"], indirect=True)
async def test_nats_that_closes_at_once(make_node, engine_name):
    """The connection has ended before anything is read by the relay."""

    async def serve(reader, writer):
        writer.write(b'INFO {"version":"2.9.10","max_payload":1048576,"jetstream":true}\r\n')
        while b"PING" not in await reader.readline():
            pass
        writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        reason = await reason_of(make_node("here", f"nats://127.0.0.1:{port}"))
        assert "EOF" in reason or "reset" in reason  # and not that it did not answer in time
    finally:
        server.close()


@pytest.mark.parametrize("engine_name", ["redis"], indirect=True)
async def test_redis_whose_scripts_are_deleted(make_node, own_engine):
    """A job is refused, and the next connection loads them again."""
    here, there = (make_node(node, own_engine.url) for node in ("here", "there"))
    await here.send("jobs", {"number": 1})
    relay = here._engine.relay

    async def flush():
        await relay.connection.link._pipeline.ask("SCRIPT", "FLUSH")

    await relay.call(flush)
    assert await sent(here.send, "jobs", {"number": 2})
    assert [(await received(there, "jobs"))["number"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("engine_name", ["redis"], indirect=True)
async def test_redis_without_hiredis(make_node, own_engine, monkeypatch):
    """Everything is the same, also when Redis is back."""
    monkeypatch.setattr(exchange, "hiredis", None)
    here, there = (make_node(node, own_engine.url) for node in ("here", "there"))
    channel = await there.new_channel()
    await there.group_add("room", channel)
    for _ in range(2):
        await here.send(channel, {"number": 0, "data": b"x" * 300_000})
        await here.group_send("room", {"number": 1})
        await here.send("jobs", {"number": 2})
        assert [(await received(there, channel))["number"] for _ in range(2)] == [0, 1]
        assert await received(there, "jobs") == {"number": 2}
        await restart(own_engine, here, there)


async def test_engine_that_is_too_old(make_node, engine, engine_name, monkeypatch):
    """Its version is said, and the one that it takes."""
    newer = (99, 0) if engine_name == "nats" else 99
    monkeypatch.setattr(f"channels_lite.relay.{engine_name}.link.OLDEST", newer)
    assert "or later" in await reason_of(make_node("here", engine.url))
