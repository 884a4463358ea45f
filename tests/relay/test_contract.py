"""The layers' own contract, where every second layer that a test makes is on another node."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.conftest import MakeLayer
from tests.contract.test_stats import told  # noqa: F401 - a fixture of that module
from tests.relay.conftest import needs

MODULES = [
    "busy", "capacity", "channels", "clock", "encryption", "first_use", "flush", "groups",
    "interchange", "loops", "messages", "names", "stats", "transactions", "upkeep",
]  # fmt: skip

#: What is otherwise across nodes, or is about the table; with why.
CAPACITY = "a channel's capacity is judged on its node, and its sender elsewhere is not told"
QUEUE = "a plain channel is the engine's queue, and no table's"
CHECKED = "it is checked before it is known where it goes"
CLOCK = "the engine goes by a clock of its own"
OTHERWISE = {
    "each_local_channel_has_a_capacity_of_its_own": CAPACITY,
    "capacity_holds_for_what_is_sent_at_once": CAPACITY,
    "channel_that_is_read_again_is_open_again": CAPACITY,
    "receiver_that_does_not_read_fills_up": CAPACITY,
    "process_that_does_not_read_fills_no_disk": CAPACITY,
    "expired_message_is_not_delivered_and_frees_capacity": CLOCK,
    "setting_the_wall_clock_changes_nothing": CLOCK,
    "generation_goes_by_the_clock_of_the_living": CLOCK,
    "expired_job_is_not_claimed_after_a_lock": QUEUE,
    "reboot_purges_what_was_before": QUEUE,
    "rows_of_an_earlier_release_are_kept": QUEUE,
    "boot_without_a_name_is_known_by_its_time": QUEUE,
    "garbage_is_dropped": QUEUE,
    "first_send_waits_for_another_writer": QUEUE,
    "first_receive_waits_for_another_writer": QUEUE,
    "event_written_by_hand_is_received": QUEUE,
    "look_on_a_loop_that_stopped_keeps_nobody": QUEUE,
    "closing_waits_for_what_is_given_back": QUEUE,
    "failed_send_writes_nothing": QUEUE,
    "claims_that_fail_beside_looks_that_work": QUEUE,
    "invalid_name_raises": CHECKED,
    "invalid_message_is_refused": CHECKED,
    "wrong_key_drops_the_message": "two senders on two nodes have no order",
    "large_rows_are_not_deleted_on_the_loop": "what comes from another node is no row",
    "members_are_listed": "those of other nodes are not known",
    "members_of_the_same_transaction_are_listed": "a plain one joins after the commit",
    "flush_belongs_to_the_transaction": "other nodes are told after the commit",
}


#: A layer with threads of its own, and one without; each with the engine of which it has more.
ENGINE_OF = {"core": "redis", "notify": "nats"}


@pytest.fixture(params=ENGINE_OF)
def kind(request: pytest.FixtureRequest) -> str:
    """Which layer."""
    return request.param


@pytest.fixture
def engine_name(kind: str) -> str:
    """The one for this layer."""
    needs(ENGINE_OF[kind])
    return ENGINE_OF[kind]


@pytest.fixture
def make_layer_sync(make_node_sync: Any, engine: Any) -> MakeLayer:
    """The first here, the second there, and so on."""
    count = 0

    def make(kind: str | None = None, **config: Any) -> Any:
        nonlocal count
        count += 1
        names = {} if kind is None else {"kind": kind}
        return make_node_sync(("there", "here")[count % 2], engine.url, **names, **config)

    return make


@pytest.fixture(autouse=True)
def _skip_what_nats_refuses(request: pytest.FixtureRequest, engine_name: str) -> None:
    if engine_name == "nats" and "megabyte" in request.node.name:
        pytest.skip("nats-server takes 1 MiB with what is around a message, so not all of it")


@pytest.fixture
def database(databases: None, tmp_path: Any) -> Any:
    return tmp_path / "here" / "channels.sqlite3"


for _name in MODULES:
    _module = importlib.import_module(f"tests.contract.test_{_name}")
    for _test, _function in vars(_module).copy().items():
        if not _test.startswith("test_") or _test[5:] in OTHERWISE:
            continue
        globals()[f"test_{_name}__{_test[5:]}"] = _function
