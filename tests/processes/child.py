"""A process that does what its parent tells it, a JSON line at a time.

The main thread is synchronous, as that of a WSGI worker; a loop runs in a second thread, as in an
ASGI server.  Each command answers with one line; each finished ``receive`` adds one.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import io
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import django

django.setup()

from asgiref.sync import async_to_sync  # noqa: E402
from channels.exceptions import ChannelFull  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from django.db import connection, transaction  # noqa: E402

from channels_lite import failpoints  # noqa: E402
from channels_lite.errors import StoreUnavailable  # noqa: E402
from channels_lite.models import Event, GroupMessage  # noqa: E402

layer = get_channel_layer()
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
receiving: dict[str, Any] = {}
atomic: list[Any] = []
unfetched: list[Any] = []


def say(**what: Any) -> None:
    """One line to the parent, in one piece, and when it was said."""
    os.write(1, (json.dumps(what | {"at": time.monotonic()}) + "\n").encode())


def on_loop(coroutine: Any, timeout: float = 30) -> Any:
    """Runs it on the loop of the second thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout)


def new_channel(prefix: str = "specific") -> str:
    return on_loop(layer.new_channel(prefix))


def send(channel: str, message: dict[str, Any]) -> None:
    on_loop(layer.send(channel, message))


def close() -> None:
    on_loop(layer.close())


def clean_expired() -> int:
    return on_loop(layer.clean_expired())


def group_add(group: str, channel: str, after: str | None = None) -> Any:
    joined = on_loop(layer.group_add(group, channel, after))
    return joined and [joined.is_complete, joined.position]


def group_history(group: str, after: str | None = None) -> dict[str, Any]:
    found = on_loop(layer.group_history(group, after))
    return {"messages": found.messages, "is_complete": found.is_complete}


def group_discard(group: str, channel: str) -> None:
    on_loop(layer.group_discard(group, channel))


def group_send(group: str, message: dict[str, Any]) -> None:
    on_loop(layer.group_send(group, message))


def receive(channel: str, count: int = 1) -> None:
    """Says each of ``count`` messages; returns when the process listens."""
    on_loop(_receive(channel, count))


async def _receive(channel: str, count: int) -> None:
    async def work() -> None:
        for _ in range(count):
            message = await layer.receive(channel)
            say(received=message, channel=channel)

    task = receiving[channel] = asyncio.create_task(work())
    while not (task.done() or layer._engine.mailboxes.is_served(channel)):  # noqa: ASYNC110 - it is short
        await asyncio.sleep(0)
    if task.done():
        task.result()


def receive_on_many(count: int) -> list[str]:
    """Makes so many channels, and receives on each without end; the nth joins the group user-n."""

    async def start() -> list[str]:
        channels = [await layer.new_channel() for _ in range(count)]
        for channel in channels:
            await _receive(channel, sys.maxsize)
        joining = (layer.group_add(f"user-{n}", channel) for n, channel in enumerate(channels))
        await asyncio.gather(*joining)
        return channels

    return on_loop(start(), timeout=120)


def hold_loop(seconds: float) -> None:
    """From now on the loop is busy for so long, as with a view that should be sync."""
    is_held = threading.Event()

    def hold() -> None:
        is_held.set()
        time.sleep(seconds)

    loop.call_soon_threadsafe(hold)
    is_held.wait()


def receive_and_cancel(channel: str, *, ends_loop: bool) -> Any:
    """Says "waits", receives, and gives up in the moment of the claim; what it got all the same."""

    async def work() -> Any:
        running = asyncio.get_running_loop()
        task = asyncio.ensure_future(layer.receive(channel))
        while not layer._engine.mailboxes.is_served(channel):  # noqa: ASYNC110 - it is short
            await asyncio.sleep(0)
        failpoints.actions["after_claim"] = lambda: running.call_soon_threadsafe(task.cancel)
        say(value="waits")
        await asyncio.wait([task])
        del failpoints.actions["after_claim"]
        return None if task.cancelled() else task.result()

    return async_to_sync(work)() if ends_loop else on_loop(work())


def poll_on_busy_loop(channel: str, seconds: float) -> Any:
    """Receives for so long; meanwhile its loop is held until the next line, and the time is over.

    Says "held" when it is.  What it has received.
    """

    def hold() -> None:
        say(value="held")
        sys.stdin.readline()
        time.sleep(seconds)

    async def poll() -> Any:
        running = asyncio.get_running_loop()
        task = asyncio.ensure_future(layer.receive(channel))
        running.call_later(seconds / 2, hold)
        running.call_later(seconds, task.cancel)
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    return async_to_sync(poll)()


def begin() -> None:
    """Enters ``atomic()``, as a sync view under ATOMIC_REQUESTS does."""
    atomic.append(transaction.atomic())
    atomic[-1].__enter__()


def end(*, is_error: bool = False) -> float:
    """Leaves it, by an exception or not; when it began to."""
    began = time.monotonic()
    error = RuntimeError("the view failed") if is_error else None
    atomic.pop().__exit__(type(error) if error else None, error, None)
    return began


def create_event(channel: str, message: dict[str, Any]) -> None:
    Event.objects.create(channel_name=channel, data=layer.serialize(message))


def raw_sql(channel: str, message: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO channels_lite_event"
            " (created_at, expires_at, channel_name, recipients, data)"
            " VALUES (%s, %s, %s, '', %s)",
            [time.time(), time.time() + 60, channel, layer.serialize(message)],
        )


def create_group_message(group: str, message: dict[str, Any]) -> None:
    GroupMessage.objects.create(group_name=group, data=layer.serialize(message))


def raw_group_message(group: str, message: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO channels_lite_groupmessage (group_name, created_at, data)"
            " VALUES (%s, %s, %s)",
            [group, time.time(), layer.serialize(message)],
        )


def insert_unfetched(channel: str, message: dict[str, Any]) -> None:
    """Fetches nothing of its RETURNING, so the statement is not over, nor its transaction."""
    cursor = connection.cursor()
    cursor.execute(
        "INSERT INTO channels_lite_event"
        " (created_at, expires_at, channel_name, recipients, data)"
        " VALUES (0, %s, %s, '', %s) RETURNING id",
        [time.time() + 60, channel, layer.serialize(message)],
    )
    unfetched.append(cursor)


def close_cursors() -> None:
    """Resets those statements, which commits them."""
    while unfetched:
        unfetched.pop().close()


def execute(sql: str) -> None:
    """On Django's connection."""
    with connection.cursor() as cursor:
        cursor.execute(sql)


def rebuild_table() -> None:
    """As Django's migrations alter a table: a new one, a copy, and its name."""
    with connection.schema_editor() as editor:
        editor._remake_table(Event)


def sync_send(channel: str, message: dict[str, Any]) -> float:
    """As a view does; how long it took."""
    began = time.monotonic()
    async_to_sync(layer.send)(channel, message)
    return time.monotonic() - began


def sync_group_send(group: str, message: dict[str, Any]) -> None:
    async_to_sync(layer.group_send)(group, message)


@contextmanager
def other_threads_at_rest() -> Iterator[None]:
    """A fork of which Python knows nothing copies its locks as they are: nobody may be at one.

    A server forks so before it has a loop.
    """
    goes_on = threading.Event()
    loop.call_soon_threadsafe(goes_on.wait)
    switches = before = None
    while switches is None or switches != before:
        time.sleep(0.05)
        before, switches = switches, switches_of_other_threads()
    try:
        yield
    finally:
        goes_on.set()


def switches_of_other_threads() -> list[str] | None:
    """How often each has slept so far; None: one does not sleep now, or has no processor to."""
    own = str(threading.get_native_id())
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != own]
    told = [(task / "status").read_text() for task in tasks]
    if not all("State:\tS" in each for each in told):
        return None
    return [each.rpartition("voluntary_ctxt_switches")[0] for each in told]


def in_fork(
    told: str,
    child: Callable[[], Coroutine[Any, Any, Any]],
    parent: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Forks after use; the child says what ``child`` returns, and the parent calls ``parent``.

    As a server written in C may, Python is not told of it, or in the child only.
    """
    read_end, write_end = os.pipe()
    if told == "all":
        pid = os.fork()
    else:
        with other_threads_at_rest():
            pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        if told == "child":
            ctypes.pythonapi.PyOS_AfterFork_Child()
        os.dup2(write_end, 1)

        async def run() -> None:
            received = await child()
            say(prefix=layer.client_prefix, received=received)

        try:
            asyncio.run(run())
        finally:
            os._exit(0)
    os.close(write_end)
    parent()
    with os.fdopen(read_end) as lines:
        said = json.loads(lines.readline() or "{}")
    os.waitpid(pid, 0)
    return {"child": said, "parent": layer.client_prefix}


def fork(told: str = "all") -> dict[str, Any]:
    """Forks after use; the child receives on a channel of its own, and says what it got."""

    async def child() -> dict[str, Any]:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "own"})
        return await asyncio.wait_for(layer.receive(channel), 10)

    return in_fork(told, child)


def fork_and_send(channel: str, told: str = "all") -> dict[str, Any]:
    """Forks after use; the child sends there, and so does the parent; what the child said."""

    async def child() -> list[dict[str, Any]]:
        own = await layer.new_channel()
        await layer.group_add("room", own)
        await layer.send(channel, {"from": "child", "channel": own})
        return [await asyncio.wait_for(layer.receive(own), 10) for _ in range(2)]

    return in_fork(told, child, lambda: send(channel, {"from": "parent"}))


def fork_and_join(group: str) -> dict[str, Any]:
    """Forks after use; the child joins, sends to the group, and says what it got."""

    async def child() -> dict[str, Any]:
        own = await layer.new_channel()
        await layer.group_add(group, own)
        await layer.group_send(group, {"from": "the child"})
        return await asyncio.wait_for(layer.receive(own), 10)

    return in_fork("all", child)


def become(user: int) -> None:
    """From now on the process is somebody else's, and of no group."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def replace() -> None:
    """Runs this very program anew, in the place of what runs now."""
    os.execv(sys.executable, sys.orig_argv)


def stop_at(point: str) -> None:
    """From now on the process stops itself at that fail point."""
    if point == "before_wake":
        from channels_lite.wake._wakeup import lib

        lib.clw_stop_before_wake = 1
    else:
        # To this very thread: another one would take it while this one goes on a little.
        failpoints.actions[point] = lambda: signal.pthread_kill(
            threading.get_ident(), signal.SIGSTOP
        )


def send_many(
    channel: str, count: int, first: int = 0, *, at_once: bool = False, to_group: bool = False
) -> list[int]:
    """Sends messages that say who they are of; the numbers of those that were taken.

    ``channel`` may be a group, ``to_group``.
    """
    taken = []

    async def send_one(number: int) -> None:
        message = {"sender": layer.client_prefix, "number": number}
        try:
            await (layer.group_send if to_group else layer.send)(channel, message)
        except ChannelFull:
            return
        taken.append(number)

    async def send_all() -> None:
        numbers = range(first, first + count)
        if at_once:
            await asyncio.gather(*map(send_one, numbers))
        else:
            for number in numbers:
                await send_one(number)

    on_loop(send_all(), timeout=600)
    return taken


def send_steadily(
    channel: str, seconds: float, every: float, first: int = 0, *, to_group: bool = False
) -> dict[str, Any]:
    """One message after the other for so long: those that were taken, were refused, or may have
    arrived all the same; and how long the slowest took."""
    taken: list[int] = []
    refused: list[int] = []
    in_doubt: list[int] = []

    async def send_all() -> float:
        until, number, slowest = time.monotonic() + seconds, first, 0.0
        while time.monotonic() < until:
            began = time.monotonic()
            message = {"sender": layer.client_prefix, "number": number}
            try:
                await (layer.group_send if to_group else layer.send)(channel, message)
            except StoreUnavailable as error:
                (in_doubt if "all the same" in str(error) else refused).append(number)
            except ChannelFull:  # nobody can take it
                refused.append(number)
            else:
                taken.append(number)
            slowest = max(slowest, time.monotonic() - began)
            number += 1
            await asyncio.sleep(every)
        return slowest

    slowest = on_loop(send_all(), timeout=600)
    return {"taken": taken, "refused": refused, "in_doubt": in_doubt, "slowest": slowest}


def send_each(to: list[str], number: int, *, at_once: bool = False, to_groups: bool = False) -> int:
    """One message to each of these channels, or groups; how many were refused, or missed it."""
    before = layer.stats.full

    async def send_one(name: str) -> None:
        message = {"sender": layer.client_prefix, "number": number}
        with suppress(ChannelFull):
            await (layer.group_send if to_groups else layer.send)(name, message)

    async def send_all() -> None:
        if at_once:
            await asyncio.gather(*map(send_one, to))
        else:
            for name in to:
                await send_one(name)

    on_loop(send_all(), timeout=600)
    return layer.stats.full - before


def send_until(seconds: float, channel: str, message: dict[str, Any]) -> str:
    """Sends, and gives up after so long; the name of the error, "" if it was sent."""

    async def send() -> str:
        try:
            await asyncio.wait_for(layer.send(channel, message), seconds)
        except asyncio.TimeoutError:
            return "TimeoutError"
        return ""

    return on_loop(send())


def send_around_commit(channel: str) -> None:
    """Number 1 inside ``atomic()``, and 2 by an ``on_commit`` that was registered before."""
    tell = async_to_sync(layer.send)
    with transaction.atomic():
        transaction.on_commit(lambda: tell(channel, {"number": 2}))
        tell(channel, {"number": 1})


def stream(group: str, by: str, count: int, first: int = 0) -> None:
    """Sends so many to the group, as a script does."""
    for number in range(first, first + count):
        message = {"type": "room.message", "content": {"by": by, "number": number}}
        async_to_sync(layer.group_send)(group, message)


def send_beside(channel: str, message: dict[str, Any]) -> dict[str, Any]:
    """Sends; the error if there was one, and the turns that another coroutine had meanwhile."""

    async def send() -> dict[str, Any]:
        sending, turns = asyncio.create_task(layer.send(channel, message)), 0
        while not sending.done():
            await asyncio.sleep(0)
            turns += 1
        return {"error": repr(sending.exception()), "turns": turns}

    return on_loop(send(), timeout=600)


def send_for(channel: str, seconds: float) -> int:
    """Sends as fast as it goes; how many."""

    async def send() -> int:
        until, count = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            await layer.send(channel, {"number": count})
            count += 1
        return count

    return on_loop(send(), timeout=seconds + 60)


def checkpoint() -> None:
    """One of the log, as the checkpointer's thread does it."""
    from channels_lite.store.checkpoint import checkpoint
    from channels_lite.store.connection import Source

    checkpoint(Source("default"))


def look_after() -> None:
    """What a process does beside sending and receiving: checks, commands, a picture, health."""
    from django.core.management import call_command
    from django.test import Client

    from channels_lite.monitor import snapshot

    quiet = {"stdout": io.StringIO(), "stderr": io.StringIO()}
    call_command("check", deploy=True, **quiet)
    call_command("clean_channels", **quiet)
    call_command("channels_lite", "status", **quiet)
    snapshot.take(layer)
    assert Client().get("/health/ready/", HTTP_HOST="localhost").status_code == 200
    assert Client().get("/metrics", HTTP_HOST="localhost").status_code == 200


def opens_by_hand() -> list[str]:
    """Files beside the database that Python code has opened itself, not through SQLite."""
    return opened


opened: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str) and ".sqlite3" in arguments[0]:
        opened.append(arguments[0])


sys.addaudithook(_note)


def die_in_forks(count: int) -> None:
    """So many processes listen, join a group, send, and are killed, one after the other."""
    for _ in range(count):
        pid = os.fork()
        if pid == 0:

            async def live() -> None:
                channel = await layer.new_channel()
                task = asyncio.ensure_future(layer.receive(channel))
                await layer.group_add("room", channel)
                await layer.group_send("room", {"type": "hello"})
                await task
                os.kill(os.getpid(), signal.SIGKILL)

            try:
                asyncio.run(asyncio.wait_for(live(), 20))
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), status


def usage() -> dict[str, int]:
    """What a process can leak."""
    return {
        "fds": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "looks": len(looks),
    }


def counts() -> dict[str, int]:
    """What the layer has counted."""
    return {name: getattr(layer.stats, name) for name in ("wakes", "looks", "found_by_clock")}


def limit_files() -> None:
    """From now on not one more can be opened."""
    highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0) for _ in range(highest)]  # fills the gaps
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))


def refuse_links() -> None:
    """As a file system does whose quota is used up."""

    def link(source: object, target: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    os.link = link  # type: ignore[assignment]


def memory() -> int:
    """Bytes that are resident."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


looks: list[float] = []


def count_looks() -> None:
    """From now on `usage` has them."""
    look = layer._engine.reader._store.submit

    def counted(*args: Any, **kwargs: Any) -> None:
        looks.append(time.monotonic())
        look(*args, **kwargs)

    layer._engine.reader._store.submit = counted


def describe() -> dict[str, Any]:
    return {
        "prefix": layer.client_prefix,
        "reason": layer._engine.waiter.reason,
        "interval": layer.look_interval,
        "pid": os.getpid(),
        "python": sys.version,
    }


def main() -> None:
    """Until standard input ends."""
    commands = globals()
    say(ready=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            value = commands[asked.pop("do")](**asked)
        except Exception as error:  # noqa: BLE001 - the parent judges
            say(error=f"{type(error).__name__}: {error}")
        else:
            say(value=value)


if __name__ == "__main__":
    main()
