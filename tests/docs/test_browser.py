"""The tutorial's page in a real browser.  CHROMIUM names it if it is not on the PATH."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.project import Project
from tests.docs.test_project import STARTING, enter, servers, until_heard

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
wait = pytest.importorskip("selenium.webdriver.support.wait")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser with a profile of its own."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile: Path = tmp_path_factory.mktemp("profile")
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def say(browser: Any, address: str, line: str) -> None:
    """Opens the page, waits for its WebSocket, types ``line`` and presses the button."""
    browser.get(address)
    timeout = wait.WebDriverWait(browser, STARTING, 0.05)
    timeout.until(lambda page: page.execute_script("return socket.readyState == WebSocket.OPEN"))
    browser.find_element("id", "text").send_keys(line)
    browser.find_element("tag name", "button").click()


def until_shown(browser: Any, line: str) -> None:
    """Returns when the page shows ``line``."""
    timeout = wait.WebDriverWait(browser, STARTING, 0.05)
    timeout.until(lambda page: line in page.find_element("id", "lines").text)


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
