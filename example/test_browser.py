"""Two browsers on different server processes talk.

SCREENSHOT=demo.png keeps what the first one shows, and demo-phone.png beside it.  CHROMIUM names
the browser if it is not on the PATH.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, Demo

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
wait = pytest.importorskip("selenium.webdriver.support.wait")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"
    ),
    pytest.mark.xdist_group("example"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --force-device-scale-factor=1"
)
DESKTOP, PHONE = (1280, 800), (390, 844)
TRIES = 200


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """A headless browser of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def until(driver: Any, script: str, *arguments: object) -> Any:
    """What ``script`` returns, once that is true."""
    return wait.WebDriverWait(driver, DEADLINE, 0.05).until(
        lambda driver: driver.execute_script(f"return {script}", *arguments)
    )


def pid_of(driver: Any) -> int:
    """The process that holds the page's WebSocket."""
    return int(until(driver, "document.getElementById('socket').dataset.pid"))


def reconnect(driver: Any) -> None:
    """As a click does; ``pid_of`` waits for the new connection."""
    driver.execute_script(
        "delete document.getElementById('socket').dataset.pid;"
        "document.getElementById('reconnect').click()"
    )


def say(driver: Any, name: str, text: str, via: str = "websocket") -> None:
    """Fills in the form, and presses the button."""
    driver.execute_script(
        """const form = document.getElementById("composer");
        form.elements.name.value = arguments[0];
        form.elements.name.dispatchEvent(new Event("change"));
        form.elements.text.value = arguments[1];
        form.requestSubmit(form.querySelector(`[value=${arguments[2]}]`));""",
        name,
        text,
        via,
    )


def has_text(driver: Any, text: str) -> bool:
    """Waits for a line of the chat."""
    return bool(
        until(
            driver,
            "[...document.querySelectorAll('#log .text')].some(p => p.textContent == arguments[0])",
            text,
        )
    )


def screen(driver: Any, size: tuple[int, int]) -> None:
    """Makes the page this big, whatever the window's frame takes."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's own sockets
def test_two_browsers_talk(demo: Demo, tmp_path: Path) -> None:
    with ExitStack() as stack:
        ada = stack.enter_context(browser(tmp_path / "ada"))
        grace = stack.enter_context(browser(tmp_path / "grace"))
        for driver, size in ((ada, DESKTOP), (grace, PHONE)):
            screen(driver, size)
            driver.get(f"{demo.address}room/lobby/")
        for _ in range(TRIES):
            if pid_of(ada) != pid_of(grace):
                break
            reconnect(grace)
        assert pid_of(ada) != pid_of(grace)

        lines = [
            (ada, "Ada", "Hello from the first process!", "websocket"),
            (grace, "Grace", "And from another one. No Redis in between?", "websocket"),
            (ada, "Ada", "Only a SQLite file. We sleep until its commit.", "websocket"),
            (grace, "Grace", "This one went through a synchronous view.", "post"),
            (ada, "Ada", "/count", "websocket"),
        ]
        for sender, name, text, via in lines:
            say(sender, name, text, via)
            assert has_text(ada, text)
            assert has_text(grace, text)
        for driver in (ada, grace):
            assert has_text(driver, "5 messages in #lobby so far.")
            until(driver, "document.querySelector('#plot path.trip')")
            until(driver, "document.querySelector('#plot circle.other')")
            # Nothing sticks out sideways.
            assert until(driver, "document.body.scrollWidth <= innerWidth")

        for text in ("While your process is down", "While your page is closed"):
            if text.endswith("down"):
                killed = pid_of(ada)
                ada.execute_script("document.getElementById('restart').click()")
            else:
                ada.get("about:blank")
            say(grace, "Grace", text)
            assert has_text(grace, text)
            if text.endswith("closed"):
                ada.get(f"{demo.address}room/lobby/")
            assert has_text(ada, text)
            assert pid_of(ada) != killed
            until(ada, "expected.length > 0")  # it has looked
            until(ada, "document.getElementById('missed').textContent == '0'")
        until(ada, "document.querySelector('#log li.late')")

        if target := os.environ.get("SCREENSHOT"):
            path = Path(target)
            time.sleep(32)  # for the picture only: a plot that is full
            ada.save_screenshot(str(path))
            grace.save_screenshot(str(path.with_name(f"{path.stem}-phone{path.suffix}")))
