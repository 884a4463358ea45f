"""What is measured; each with processes of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.relay.places import Place

__all__ = ["WORKLOADS", "copies", "outage"]

PERIOD = 0.004
SENDERS = 50
TOTAL = {"one way": 400, "throughput": 20_000, "group": 60, "jobs": 3_000}
HERE, THERE = Place.NODES


def one_way(place: Place, contender: str, there: str, share: int) -> float:
    """Median milliseconds from the call of ``send`` to the return of ``receive``."""
    count = TOTAL["one way"] // share
    with place.children(contender, HERE, there) as (one, other):
        [channel] = other.do("listen", 1, "")
        one.do("send", channel, count, PERIOD, False)
        found = other.do("collect", count)
        return 1000 * statistics.median(got - sent for _, sent, got in found[count // 10 :])


def throughput(place: Place, contender: str, there: str, share: int) -> float:
    """Messages per second of 50 coroutines that await each send, until the last came."""
    count = TOTAL["throughput"] // share
    with place.children(contender, HERE, there) as (one, other):
        [channel] = other.do("listen", 1, "")
        one.do("send", channel, 20, 0, False)
        other.do("collect", 20)
        began = one.do("flood", channel, count, SENDERS)
        found = other.do("collect", count)
        return len(found) / (found[-1][2] - began)


def group(place: Place, contender: str, there: str, share: int) -> float:
    """Median milliseconds until the last of 200 members, on two nodes of four processes, has it."""
    count = TOTAL["group"] // min(share, 3)
    with place.children(contender, *[HERE] * 4, *[there] * 4) as children:
        for each in children:
            each.do("listen", 25, "room")
        children[0].do("send", "room", count, 0.02, True)
        last: dict[int, float] = {}
        sent: dict[int, float] = {}
        for each in children:
            for number, at, got in each.do("collect", 25 * count):
                last[number] = max(last.get(number, 0), got)
                sent[number] = at
        return 1000 * statistics.median(last[each] - sent[each] for each in last if each > 5)


def jobs(place: Place, contender: str, there: str, share: int) -> float:
    """Jobs per second through a plain channel: five coroutines that send, one worker elsewhere."""
    count = TOTAL["jobs"] // share
    with place.children(contender, HERE, there) as (one, other):
        other.do("listen_plain", "jobs")
        one.do("send", "jobs", 20, 0, False)
        other.do("collect", 20)
        began = one.do("flood", "jobs", count, 5)
        found = other.do("collect", count)
        return len(found) / (found[-1][2] - began)


WORKLOADS: dict[str, Callable[[Place, str, str, int], float]] = {
    "one way": one_way,
    "throughput": throughput,
    "group": group,
    "jobs": jobs,
}


def copies(place: Place, engine: str, *, elsewhere: int) -> float:
    """Copies of one group message that leave for the engine, with members in two processes here,
    and in so many of the other node."""
    count, size, contender = 50, 50_000, f"ours, {engine}"
    with place.children(contender, HERE, HERE, *[THERE] * elsewhere) as (one, *others):
        for each in (one, *others):
            each.do("listen", 5, "room")
        one.do("send", "room", 5, 0.01, True)
        time.sleep(0.5)
        before = place.taken(engine)
        one.do("send", "room", count, 0, True, size)
        return (place.taken(engine) - before) / count / size


def outage(place: Place, engine: str, seconds: float) -> dict[str, float]:
    """The engine stops for so long.  Local messages lost, their p99 of it and of before in
    milliseconds, and the seconds until a message crosses when it goes on."""
    with place.children(f"ours, {engine}", HERE, HERE, THERE) as (sender, near, far):
        [local], [across] = near.do("listen", 1, ""), far.do("listen", 1, "")
        near.do("listen", 1, "room")
        far.do("listen", 1, "room")
        latencies, lost = [], 0
        for is_stopped in (False, True):
            if is_stopped:
                place.engines[engine].freeze()
            count = sender.do("send_for", local, "room", seconds, 0.01)
            time.sleep(0.5)
            found = [each for each in near.do("collect", 10**9, 0.1) if each[0] >= 0]
            lost += count - len(found)
            took = sorted(got - sent for _, sent, got in found)
            latencies.append(1000 * took[int(0.99 * len(took))])
        far.do("collect", 10**9, 0.1)
        went_on = time.monotonic()
        place.engines[engine].thaw()
        sender.do("reach", across)
        [(_, _, came), *_] = [each for each in far.do("collect", 1) if each[0] >= 0]
        return {
            "lost": lost,
            "before": latencies[0],
            "during": latencies[1],
            "until": came - went_on,
        }
