"""The tutorial's page in a real browser."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.browser import until
from tests.docs.project import Project
from tests.docs.test_project import STARTING, enter, servers, until_heard


def say(browser: Any, address: str, line: str) -> None:
    """Opens the page, waits for its WebSocket, types ``line`` and presses the button."""
    browser.get(address)
    until(browser, "socket.readyState == WebSocket.OPEN")
    browser.find_element("id", "text").send_keys(line)
    browser.find_element("tag name", "button").click()


def until_shown(browser: Any, line: str) -> None:
    """Returns when the page shows ``line``."""
    until(browser, "document.getElementById('lines').innerText.includes(arguments[0])", line)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets
async def test_page_of_the_tutorial(chat: Project, browser: Any):
    """What is typed into the tutorial's page all others hear, and it shows what others say."""
    await asyncio.to_thread(chat.start, servers()[0])
    client = await asyncio.wait_for(enter(chat), STARTING)
    try:
        address = f"http://127.0.0.1:{chat.port}/"
        await asyncio.to_thread(say, browser, address, "Typed by hand")
        await until_heard(client, "Typed by hand")
        await client.send(json.dumps({"text": "<b>From a client</b>"}))
        await asyncio.to_thread(until_shown, browser, "<b>From a client</b>")
    finally:
        await client.close()
