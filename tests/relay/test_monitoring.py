"""What an operator sees of the relay: doctor, status, checks, health, metrics."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from channels_lite.relay.node import known_name
from tests.processes.conftest import TIMEOUT, child_environment, configured, wait_until
from tests.processes.conftest import empty_database as empty_database  # noqa: PLC0414 - a fixture
from tests.relay.conftest import needs
from tests.relay.test_processes import LAYERS, folders, start  # noqa: F401 - fixtures

AWAY = "nats://127.0.0.1:1"


@pytest.fixture
def engine_name():
    """What is said of one is said of the other; see `channels_lite.wake.fifo.RelayReport`."""
    needs("redis")
    return "redis"


@pytest.fixture
def run(folders, engine, tmp_path):  # noqa: F811
    """Runs a program on the node "here", and returns what it said."""

    def run(*arguments, relay=engine.url, fails=False, **config):
        options = {"prefix": f"test-{tmp_path.name[-20:]}"}
        environment = configured(LAYERS[2], relay=relay, relay_options=options, **config)
        done = subprocess.run(
            [sys.executable, *arguments],
            env=child_environment(folders["here"], TEST_LAYER=LAYERS[2], **environment),
            check=False,
            capture_output=True,
            timeout=3 * TIMEOUT,
            text=True,
        )
        assert bool(done.returncode) == fails, done.stderr
        return done.stdout + done.stderr

    return run


def test_doctor(run, folders, engine, start):  # noqa: F811
    """It reports the node's name, the engine, its round trip, and each process's figures."""
    here, there = [start(node, polling_interval=0.2) for node in ("here", "there")]
    channel, other = here.do("new_channel"), there.do("new_channel")
    for child, each in ((here, channel), (there, other)):
        child.do("group_add", group="room", channel=each)
        child.do("receive", channel=each, count=9)
    there.do("group_send", group="room", message={"number": 1})
    here.messages(1)
    token = here.do("describe")["prefix"]
    wait_until(lambda: "1 groups" in (said := doctor(run)) and "1 received" in said)
    found = {each["subject"]: each for each in json.loads(doctor(run))}
    assert known_name(folders["here"] / "default.sqlite3") in found["relay"]["said"]
    assert engine.url in found["relay"]["said"]
    assert "round trip" in found["relay"]["said"]
    assert token in found["relay of"]["said"]
    assert "to a plain channel" in found["self-test"]["said"]


def doctor(run):
    """Its findings, as JSON."""
    said = run("-m", "django", "channels_lite", "doctor", "--json")
    return said[: said.rindex("]") + 1]


def test_doctor_while_the_engine_is_away(run):
    """It says so, and what to do."""
    said = run("-m", "django", "channels_lite", "doctor", relay=AWAY, fails=True)
    assert "nothing listens at 127.0.0.1:1" in said


def test_status(run, start):  # noqa: F811
    """Each process says what it has heard, as a table and as JSON."""
    here = start("here", polling_interval=0.2)
    channel = here.do("new_channel")
    here.do("group_add", group="room", channel=channel)
    here.do("receive", channel=channel, count=1)

    def taken():
        return json.loads(run("-m", "django", "channels_lite", "status", "--json"))

    wait_until(lambda: (taken()["processes"][0]["relay"] or {}).get("groups") == 1)
    found = taken()
    assert found["node"] == here.do("describe")["prefix"][:10]
    assert found["processes"][0]["relay"]["reason"] == ""
    assert "relay of" in run("-m", "django", "channels_lite", "status")


def test_check_tries_to_connect(run):
    """Only with --deploy; and it says what is wrong."""
    assert "W011" not in run("-m", "django", "check", relay=AWAY)
    assert "nothing listens at 127.0.0.1:1" in run("-m", "django", "check", "--deploy", relay=AWAY)
    assert "W011" not in run("-m", "django", "check", "--deploy")


INSERT = """
import django; django.setup()
from channels_lite.models import GroupMessage
GroupMessage.objects.create(group_name="room", data=b"x")
"""
HISTORY = {"group_history": {"room*": {"messages": 10, "seconds": 3600}}}


@pytest.mark.parametrize("engine_name", ["nats", "redis"])
def test_histories_in_the_engine(run, start, engine_name):  # noqa: F811
    """They are counted where they are; rows of the table, which nobody reads, are reported."""
    here = start("here", **HISTORY)
    for number in range(3):
        here.do("group_send", group="room", message={"number": number})
    doctor = run("-m", "django", "channels_lite", "doctor", **HISTORY)
    assert "histories with 3 messages of 1 groups" in doctor
    assert "a message came, and again" in doctor
    assert "in the relay's engine" in run("-m", "django", "channels_lite", "status", **HISTORY)
    assert "channels_lite_history_messages{" not in run("-c", HEALTH, **HISTORY)
    assert "W012" not in run("-m", "django", "check", "--deploy", **HISTORY)
    run("-c", INSERT, **HISTORY)
    assert "W012" in run("-m", "django", "check", "--deploy", **HISTORY)


HEALTH = """
import django; django.setup()
from django.test import Client
for path in ("/health/live/", "/health/ready/", "/health/ready/?relay", "/metrics"):
    answer = Client().get(path, HTTP_HOST="localhost")
    print(path, answer.status_code)
print(answer.content.decode())
"""


@pytest.mark.parametrize("is_away", [False, True], ids=["up", "away"])
def test_health_and_metrics(run, engine, is_away):
    """The process lives without the engine, and is ready on its node; asked for the relay, not."""
    url = f"{engine.scheme}://127.0.0.1:1" if is_away else engine.url
    said = run("-c", HEALTH, relay=url)
    assert "/health/live/ 200" in said
    assert "/health/ready/ 200" in said
    assert f"/health/ready/?relay {503 if is_away else 200}" in said
    assert f'channels_lite_relay_up{{layer="default"}} {0.0 if is_away else 1.0}' in said
