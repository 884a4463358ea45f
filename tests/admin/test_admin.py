"""The admin, in a real browser before a real server.

SCREENSHOT=live.png keeps what the live page shows, with -dark and -phone beside it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.conftest import (
    PATIENCE,
    child_environment,
    empty_database,
    folder,
    start,
    wait_until,
)
from tests.servers.conftest import free_port, run

__all__ = ["empty_database", "folder", "run", "start"]

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
wait = pytest.importorskip("selenium.webdriver.support.wait")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --force-device-scale-factor=1"
)
SERVERS = {
    "ASGI": ["uvicorn", "--lifespan", "off", "--port", "{port}", "tests.admin.server:application"],
    "WSGI": ["gunicorn", "--threads", "4", "-b", "127.0.0.1:{port}", "tests.admin.server:wsgi"],
}
DESKTOP, PHONE = (1280, 1000), (390, 844)


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def site(run, folder, monkeypatch, request):
    """The address of a server with a superuser."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.admin.settings")
    environment = child_environment(folder) | {
        "DJANGO_SETTINGS_MODULE": "tests.admin.settings",
        "DJANGO_SUPERUSER_PASSWORD": "secret",
    }
    for command in (
        ["migrate", "-v0"],
        ["createsuperuser", "--noinput", "--username=admin", "--email=admin@example.com"],
    ):
        subprocess.run([sys.executable, "-m", "django", *command], env=environment, check=True)
    port = free_port()
    server = run(
        *(word.format(port=port) for word in SERVERS[request.param]),
        DJANGO_SETTINGS_MODULE="tests.admin.settings",
    )

    def is_up():
        assert server.is_running(), server.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(port))) == 0

    wait_until(is_up)
    return f"http://127.0.0.1:{port}/admin/"


def until(driver, script):
    """What ``script`` returns, once that is true."""
    return wait.WebDriverWait(driver, PATIENCE, 0.05).until(
        lambda driver: driver.execute_script(f"return {script}")
    )


def log_in(driver, site):
    driver.get(site)
    driver.execute_script(
        "document.getElementById('id_username').value = 'admin';"
        "document.getElementById('id_password').value = 'secret';"
        "document.getElementById('login-form').submit()"
    )
    until(driver, "document.getElementById('user-tools') !== null")


def tile(name):
    return f"document.querySelector('[data-tile={name}]').textContent"


@pytest.mark.parametrize("site", SERVERS, indirect=True)
def test_live_page_shows_what_happens(browser, site, start):
    """Rows, groups and processes appear as they come, and a message's latency is drawn."""
    log_in(browser, site)
    child = start()
    child.do("create_event", channel="thumbnails", message={"type": "make", "id": 7})
    browser.set_window_size(*DESKTOP)
    browser.get(f"{site}channels_lite/event/live/")
    until(browser, f"{tile('waiting')} === '1'")
    channel = child.do("new_channel")
    child.do("receive", channel="mails")
    child.do("group_add", group="chat_lobby", channel=channel)
    until(browser, f"{tile('memberships')} === '1'")
    for text in ("thumbnails", "mails", "chat_lobby", str(child.pid)):
        until(browser, f"document.querySelector('.live-tables').textContent.includes('{text}')")
    come = "document.querySelector('[data-table=channels] tbody tr').cells[3].textContent"

    def rows_come():
        child.do("create_event", channel="thumbnails", message={"type": "make", "id": 7})
        return browser.execute_script(f"return {come} > 0")

    wait_until(rows_come)
    until(browser, "document.querySelector('#live-plot polyline').points.length > 2")
    assert until(browser, tile("latency")).endswith(" ms")
    keep_screenshots(browser)
    wide = "document.documentElement.scrollWidth"
    assert browser.execute_script(f"return {wide}") <= PHONE[0]
    errors = [each for each in browser.get_log("browser") if "favicon" not in each["message"]]
    assert errors == []


def keep_screenshots(browser):
    """At desktop and phone width, light and dark."""
    shown = os.environ.get("SCREENSHOT")
    kept = (("", DESKTOP, "light"), ("-dark", DESKTOP, "dark"), ("-phone", PHONE, "light"))
    for suffix, size, scheme in kept:
        browser.set_window_size(*size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
        )
        if shown:
            path = Path(shown)
            browser.save_screenshot(str(path.with_stem(path.stem + suffix)))


@pytest.mark.parametrize("site", ["ASGI"], indirect=True)
def test_messages_are_read_and_purged(browser, site, start):
    """A message is shown decoded, cannot be changed, and is purged with its channel."""
    log_in(browser, site)
    child = start()
    for number in range(3):
        child.do("create_event", channel="thumbnails", message={"type": "make", "id": number})
    child.do("create_event", channel="others", message={"type": "x"})
    garbage = "UPDATE channels_lite_event SET data = x'c1' WHERE channel_name = 'others'"
    child.do("execute", sql=garbage)
    browser.get(f"{site}channels_lite/event/")
    rows = "document.querySelectorAll('#result_list tbody tr').length"
    assert browser.execute_script(f"return {rows}") == 4
    browser.get(f"{site}channels_lite/event/1/change/")
    text = until(browser, "document.getElementById('content').textContent")
    assert "{'id': 0, 'type': 'make'}" in text
    assert browser.execute_script("return document.querySelector('[name=_save]')") is None
    browser.get(f"{site}channels_lite/event/4/change/")
    assert "cannot be decoded" in until(browser, "document.getElementById('content').textContent")
    browser.get(f"{site}channels_lite/event/?q=thumbnails")
    browser.execute_script(
        "document.querySelector('#result_list input[value=\"1\"]').click();"
        "document.querySelector('[name=action]').value = 'purge_channels';"
        "document.getElementById('changelist-form').submit()"
    )
    until(browser, "document.querySelector('.messagelist')?.textContent.includes('3 messages')")


@pytest.mark.parametrize("site", ["ASGI"], indirect=True)
def test_live_page_is_for_staff(browser, site):
    """A stranger is sent to the login, from the page and from its stream."""
    for page in ("live/", "live/stream/"):
        browser.get(f"{site}channels_lite/event/{page}")
        assert "/login/" in browser.current_url
