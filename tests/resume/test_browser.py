"""resume.js in a real browser: whatever happens in between, the page has every message once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser import until
from tests.processes.conftest import Child, wait_until
from tests.resume.conftest import Site
from tests.resume.proxy import Proxy

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets

# What the page does in milliseconds here takes it seconds or minutes otherwise.
AT_ONCE = "ResumingSocket.PAUSE = ResumingSocket.LONGEST_PAUSE = 50"
NEVER = "ResumingSocket.PAUSE = ResumingSocket.LONGEST_PAUSE = 1e9"


class Page:
    """A page whose WebSocket is in these groups."""

    def __init__(self, browser: Any, port: int | str, groups: str = "room", how: str = "") -> None:
        self._browser = browser
        self._url = f"http://127.0.0.1:{port}/page/?groups={groups}&{how}"
        self._last = groups.rpartition(",")[2]
        self.open()

    def open(self) -> None:
        """Once more, as a reload does; returns when it is in its groups."""
        self._browser.get(self._url)
        self.until("socket.positions[arguments[0]]", self._last)

    def leave(self) -> None:
        self._browser.get("about:blank")

    def run(self, script: str) -> Any:
        return self._browser.execute_script(script)

    def until(self, script: str, *arguments: Any) -> Any:
        return until(self._browser, script, *arguments)

    def heard(self, group: str = "room") -> list[int]:
        """The numbers that it has heard there."""
        return self._browser.execute_script(
            "return heard.filter((m) => m.group === arguments[0]).map((m) => m.number)", group
        )

    def until_heard(self, number: int, group: str = "room") -> None:
        script = "heard.some((m) => m.group === arguments[0] && m.number === arguments[1])"
        self.until(script, group, number)

    def take_network(self, *, is_away: bool = True) -> None:
        """As the developer tools do: the browser knows; connections that are open stay so."""
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self._browser.execute_cdp_cmd("Network.enable", {})
        self._browser.execute_cdp_cmd(
            "Network.emulateNetworkConditions", conditions | {"offline": is_away}
        )


@pytest.fixture
def say(sender: Child) -> Callable[..., None]:
    """Says the numbers up to ``last``, each one once."""
    said: dict[str, int] = {}

    def say(last: int, group: str = "room") -> None:
        for number in range(said.get(group, 0), last + 1):
            content = {"type": "room.message", "content": {"number": number}}
            sender.do("group_send", group=group, message=content)
        said[group] = last + 1

    return say


def numbers(last: int) -> list[int]:
    return list(range(last + 1))


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_server_is_killed_and_started_again(browser: Any, site: Site, say: Any, kind: str):
    """What is said while there is no server, and what was on its way, comes, in order, once."""
    page = Page(browser, site.port, how=f"kind={kind}")
    page.run(AT_ONCE)
    for end in (10, 20, 30):
        say(end - 5)
        site.server.signal(signal.SIGKILL)
        say(end)
        page.until("ends.length > arguments[0]", end // 10 - 1)
        site.start()
        page.until_heard(end)
    assert page.heard() == numbers(30)


def test_network_is_taken_away(browser: Any, site: Site, say: Any, make_proxy: Any):
    """Back in the network, the page connects at once, not when its pause is over."""
    proxy: Proxy = make_proxy(lambda: site.port)
    page = Page(browser, proxy.port)
    page.run(NEVER)
    say(1)
    page.until_heard(1)
    page.take_network()
    proxy.cut()
    page.until("ends.length")
    say(3)
    page.take_network(is_away=False)
    page.until_heard(3)
    assert page.heard() == numbers(3)


def test_page_is_looked_at_again(browser: Any, site: Site, say: Any, make_proxy: Any):
    """A page that is visible again connects at once."""
    proxy: Proxy = make_proxy(lambda: site.port)
    page = Page(browser, proxy.port)
    page.run(NEVER)
    proxy.cut()
    page.until("ends.length")
    say(1)
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    page.until_heard(1)
    assert page.heard() == numbers(1)


def test_connection_is_dead_without_a_word(browser: Any, site: Site, say: Any, make_proxy: Any):
    """A page that hears nothing asks, and connects anew if there is no answer; else it stays."""
    proxy: Proxy = make_proxy(lambda: site.port)
    page = Page(browser, proxy.port)
    page.run(f"{AT_ONCE}; ResumingSocket.PING = 50; ResumingSocket.TIMEOUT = 5000")
    say(1)  # from now on it asks every 50 ms
    page.until_heard(1)
    page.run("ResumingSocket.TIMEOUT = 100")
    proxy.hold()
    page.until("ends.length")
    say(3)
    proxy.go_on()
    page.until_heard(3)
    assert page.heard() == numbers(3)


def test_silence_is_no_fault(browser: Any, site: Site, say: Any):
    """A connection on which nothing is said stays, for the consumer answers."""
    page = Page(browser, site.port)
    page.run(
        "const ask = WebSocket.prototype.send; window.pings = 0; ResumingSocket.PING = 20;"
        "WebSocket.prototype.send = function (data) { pings++; ask.call(this, data) }"
    )
    say(0)
    page.until("pings > 5")
    assert page.run("return ends") == []


def test_page_is_opened_again(browser: Any, site: Site, say: Any):
    """With a storage it goes on from where it was; without, from now."""
    page = Page(browser, site.port, how="storage=1")
    say(2)
    page.until_heard(2)
    page.leave()
    say(4)
    page.open()
    say(5)
    page.until_heard(5)
    assert page.heard() == [3, 4, 5]

    page = Page(browser, site.port)
    say(6)
    page.until_heard(6)
    assert page.heard() == [6]


def test_storage_that_is_broken_or_full(browser: Any, site: Site, say: Any):
    """What somebody else has written there, or no place, does not stop the page."""
    page = Page(browser, site.port, how="storage=1")
    page.run("sessionStorage.setItem(sessionStorage.key(0), 'no JSON')")
    page.leave()
    page.open()
    page.run("Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceeded') }")
    say(1)
    page.until_heard(1)
    assert page.heard() == numbers(1)


def test_what_is_gone_the_page_is_told(
    browser: Any, site: Site, sender: Child, say: Any, make_proxy: Any
):
    """More was said than the history keeps: the page hears of it, and goes on from now."""
    proxy: Proxy = make_proxy(lambda: site.port)
    page = Page(browser, proxy.port, groups="room,short", how="handles=1")
    page.run(NEVER)
    say(0, "short")
    page.until_heard(0, "short")
    proxy.cut()
    page.until("ends.length")
    say(9, "short")
    sender.do("clean_expired")
    page.run("dispatchEvent(new Event('online'))")
    page.until("incomplete.length")
    say(10, "short")
    page.until_heard(10, "short")
    assert page.run("return incomplete") == ["short"]
    assert page.heard("short")[-1] == 10


def test_what_is_gone_loads_the_page_anew(
    browser: Any, site: Site, sender: Child, say: Any, make_proxy: Any
):
    """Without a handler of its own the page is loaded anew, once."""
    proxy: Proxy = make_proxy(lambda: site.port)
    page = Page(browser, proxy.port, groups="short", how="storage=1")
    page.run(f"{NEVER}; window.isOld = true")
    say(0, "short")
    page.until_heard(0, "short")
    proxy.cut()
    page.until("ends.length")
    say(9, "short")
    sender.do("clean_expired")
    page.run("dispatchEvent(new Event('online'))")
    page.until("!window.isOld && socket.positions.short")
    page.run("window.isSame = true")
    say(10, "short")
    page.until_heard(10, "short")
    assert page.run("return window.isSame")


def test_several_groups(browser: Any, site: Site, say: Any, make_proxy: Any):
    """Each group goes on from its own position."""
    proxy: Proxy = make_proxy(lambda: site.port)
    page = Page(browser, proxy.port, groups="room,room-2,room-3")
    page.run(NEVER)
    for last, group in enumerate(("room", "room-2", "room-3"), start=1):
        say(last, group)
        page.until_heard(last, group)
    proxy.cut()
    page.until("ends.length")
    say(7, "room-3")
    say(5, "room")
    page.run("dispatchEvent(new Event('online'))")
    page.until_heard(5)
    page.until_heard(7, "room-3")
    say(3, "room-2")
    page.until_heard(3, "room-2")
    assert [page.heard(group) for group in ("room", "room-2", "room-3")] == [
        numbers(5),
        numbers(3),
        numbers(7),
    ]


def test_message_that_comes_again_is_dropped(browser: Any, site: Site, say: Any):
    """A consumer that joins twice repeats what it has sent; the page takes it once."""
    page = Page(browser, site.port, how="storage=1")
    say(0)
    page.until_heard(0)
    page.open()
    say(3)
    page.until_heard(3)
    page.run("socket.send({ join: 'room' })")
    say(4)
    page.until_heard(4)
    assert page.heard() == [1, 2, 3, 4]


def test_application_ends_the_connection(browser: Any, site: Site, say: Any):
    """After a code from 4000 on the page does not come back; nothing is sent then."""
    page = Page(browser, site.port)
    page.run(AT_ONCE)
    assert page.run("return socket.send({ end: 4403 })")
    page.until("ends.length")
    page.run("dispatchEvent(new Event('online'))")
    say(0)
    assert not page.run("return socket.send({ end: 4403 })")
    assert page.run("return ends") == [4403]
    assert page.heard() == []


def test_server_that_is_away_is_not_stormed(browser: Any, site: Site):
    """The pauses between two attempts grow, at random."""
    page = Page(browser, site.port)
    page.run(
        "window.pauses = []; const wait = window.setTimeout;"
        "window.setTimeout = (action, ms) => wait(action, ms === ResumingSocket.TIMEOUT ? ms :"
        " (pauses.push(ms), 0));"
    )
    site.server.signal(signal.SIGKILL)
    pauses = page.until("pauses.length >= 20 && pauses.slice(0, 20)")
    limits = [min(500 * 2**attempt, 30_000) for attempt in range(20)]
    assert all(0 <= pause <= limit for pause, limit in zip(pauses, limits, strict=True))
    assert len(set(pauses)) == 20
    assert max(pauses) > 5000
    site.start()
    wait_until(site.is_up)
    page.until("socket.send({})")
