"""The chapter on histories, followed as a reader would, with a real browser."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.browser import until
from tests.docs.pages import DOCS, blocks
from tests.docs.project import SERVES, Project
from tests.processes.conftest import TIMEOUT, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets

PAGE = DOCS / "misses-nothing.md"
LINES = "[...document.querySelectorAll('#lines li')].map((line) => line.textContent)"
SAY = (
    "from asgiref.sync import async_to_sync; from channels.layers import get_channel_layer;"
    " send = async_to_sync(get_channel_layer().group_send);"
    " send('room', {'type': 'chat.line', 'text': '%s'})"
)


def say(chat: Project, line: str) -> None:
    """From another process."""
    chat.run(f'python manage.py shell -c "{SAY % line}"')


def serve(chat: Project) -> None:
    """Starts the page's server; returns when it answers."""
    [command] = [each for block in blocks(PAGE) for each in block.commands if SERVES.match(each)]
    chat.start(command)

    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{chat.port}/", timeout=TIMEOUT):
                return True
        except (URLError, ConnectionError):
            return False

    wait_until(answers)


def kill(chat: Project) -> None:
    """kill -9 of the server and all of its processes."""
    chat.stop()


def open_page(browser: Any, chat: Project) -> None:
    """Returns when it is in the room."""
    browser.get(f"http://127.0.0.1:{chat.port}/")
    until(browser, "socket.positions.room")


def shows(browser: Any, line: str) -> list[str]:
    """The lines of the page, once that is among them."""
    until(browser, f"{LINES}.some((each) => each.startsWith(arguments[0]))", line)
    return browser.execute_script(f"return {LINES}")


def test_page_misses_nothing(chat: Project, browser: Any):
    """As the page tries it: kill -9, and a page that is closed; what was missed comes, once."""
    chat.follow(blocks(PAGE))  # up to its server
    kill(chat)
    serve(chat)
    open_page(browser, chat)
    browser.find_element("id", "text").send_keys("Typed by hand")
    browser.find_element("tag name", "button").click()
    [typed] = shows(browser, "Typed by hand")
    assert "(process " in typed
    kill(chat)
    say(chat, "Without a server")
    serve(chat)
    assert shows(browser, "Without") == [typed, "Without a server"]
    browser.get("about:blank")
    say(chat, "Without a page")
    open_page(browser, chat)
    assert shows(browser, "Without") == ["Without a page"]


def test_page_renders_what_was_said(chat: Project, browser: Any):
    """The rendered history and what comes after it join without a gap; so do events."""
    chat.follow(step for step in blocks(PAGE) if not any(map(SERVES.match, step.commands)))
    said = [f"Line {number}" for number in range(6)]
    for line in said[:2]:
        say(chat, line)
    serve(chat)
    open_page(browser, chat)
    assert browser.execute_script(f"return {LINES}") == said[:2]
    [script] = [block.code for block in blocks(PAGE) if block.language == "js"]
    browser.execute_script(
        "window.told = []; const show = (line) => told.push(line);"
        f"{script}; source.onopen = () => (window.isOpen = true);"
    )
    until(browser, "window.isOpen")
    say(chat, said[2])
    until(browser, "told.length")
    kill(chat)
    for line in said[3:5]:
        say(chat, line)
    serve(chat)
    say(chat, said[5])
    assert shows(browser, said[5]) == said
    until(browser, "told.includes(arguments[0])", said[5])
    assert browser.execute_script("return told") == said[2:]
