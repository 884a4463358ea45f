"""A real browser for tests.  CHROMIUM names it if it is not on the PATH."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run"
# Seconds; the machine may be busy.
TIMEOUT = 60


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser with a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
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


def until(browser: Any, script: str, *arguments: object) -> Any:
    """What ``script`` returns in the page, once that is true."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := browser.execute_script(f"return {script}", *arguments)):
        assert time.monotonic() < deadline, script
        time.sleep(0.05)
    return found
