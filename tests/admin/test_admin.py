"""The admin, in a real browser before a real server.

SCREENSHOTS=folder keeps pictures of it there, and of ``channels_lite status``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest

from tests.processes.conftest import (
    TIMEOUT,
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
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"
    ),
    pytest.mark.xdist_group("admin"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --force-device-scale-factor=1"
)
SERVERS = {
    "ASGI": ["uvicorn", "--lifespan", "off", "--port", "{port}", "tests.admin.server:application"],
    "WSGI": ["gunicorn", "--threads", "4", "-b", "127.0.0.1:{port}", "tests.admin.server:wsgi"],
}
VIEWER = """
from django.contrib.auth.models import Permission, User
viewer = User.objects.create_user("viewer", password="secret", is_staff=True)
viewer.user_permissions.add(Permission.objects.get(codename="view_event"))
"""
DESKTOP, PHONE = (1280, 900), (390, 844)
SCREENSHOTS = os.environ.get("SCREENSHOTS")
SOON = '{"polling_interval": 0.3}'


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """A browser that knows nothing of the other tests."""
    yield chromium
    chromium.delete_all_cookies()
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get("about:blank")
    chromium.get_log("browser")


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """The folder of a database with a superuser, and a user who may look."""
    folder = tmp_path_factory.mktemp("users")
    environment = child_environment(folder) | {
        "DJANGO_SETTINGS_MODULE": "tests.admin.settings",
        "DJANGO_SUPERUSER_PASSWORD": "secret",
    }
    for command in (
        ["migrate", "-v0"],
        ["createsuperuser", "--noinput", "--username=admin", "--email=admin@example.com"],
        ["shell", "-c", VIEWER],
    ):
        subprocess.run([sys.executable, "-m", "django", *command], env=environment, check=True)
    return folder


@pytest.fixture
def site(run, folder, users, monkeypatch, request):
    """The address of a server with these users."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.admin.settings")
    shutil.copytree(users, folder, dirs_exist_ok=True)
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
    return wait.WebDriverWait(driver, TIMEOUT, 0.05).until(
        lambda driver: driver.execute_script(f"return {script}")
    )


def log_in(driver, site, name="admin"):
    driver.get(site)
    driver.execute_script(
        f"document.getElementById('id_username').value = '{name}';"
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
    child, sender = start(TEST_CONFIG=SOON), start()
    child.do("create_event", channel="thumbnails", message={"type": "make", "id": 7})
    browser.set_window_size(*DESKTOP)
    browser.get(f"{site}channels_lite/event/live/")
    until(browser, f"{tile('waiting')} === '1'")
    channel = child.do("new_channel")
    child.do("receive", channel="mails")
    child.do("receive", channel=channel, count=100_000)
    child.do("group_add", group="chat_lobby", channel=channel)
    until(browser, f"{tile('memberships')} === '1'")
    for text in ("thumbnails", "mails", "chat_lobby", str(child.pid)):
        until(browser, f"document.querySelector('.live-tables').textContent.includes('{text}')")
    come = "document.querySelector('[data-table=channels] tbody tr').cells[3].textContent"

    def is_seen(what):
        child.do("create_event", channel="thumbnails", message={"type": "make", "id": 7})
        for number in range(20):
            sender.do("group_send", group="chat_lobby", message={"number": number})
        return browser.execute_script(f"return {what} > 0")

    wait_until(lambda: is_seen(come))
    wait_until(lambda: is_seen(tile("received")))
    points = "document.querySelector('#live-plot polyline').points.length"
    if SCREENSHOTS:
        while browser.execute_script(f"return {points}") < 30:
            is_seen(come)
        draw_status(child)
    until(browser, f"{points} > 2")
    assert until(browser, tile("latency")).endswith(" ms")
    assert "Other nodes" not in browser.find_element("tag name", "body").text  # there is no relay
    for suffix, size, scheme in (
        ("", DESKTOP, "light"),
        ("-dark", DESKTOP, "dark"),
        ("-phone", PHONE, "light"),
    ):
        keep_screenshot(browser, f"live{suffix}", size, scheme)
    wide = "document.documentElement.scrollWidth"
    assert browser.execute_script(f"return {wide}") <= PHONE[0]
    errors = [each for each in browser.get_log("browser") if "favicon" not in each["message"]]
    assert errors == []


def keep_screenshot(browser, name, size=DESKTOP, scheme="light"):
    """Gives the page that size and those colours, and takes a picture if one is wanted."""
    browser.set_window_size(*size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
    )
    if SCREENSHOTS:
        browser.save_screenshot(f"{SCREENSHOTS}/{name}.png")


def draw_status(child):
    """As ``manage.py channels_lite status`` prints it."""
    code = (
        "import dataclasses, django; django.setup()\n"
        "from channels.layers import get_channel_layer\n"
        "from rich.console import Console\n"
        "from channels_lite.management.status import draw\n"
        "from channels_lite.monitor.snapshot import take\n"
        "console = Console(record=True, width=96, file=open('/dev/null', 'w'))\n"
        "taken = take(get_channel_layer())\n"
        "taken = dataclasses.replace(taken, path='/srv/chat/channels.sqlite3')\n"
        "console.print(draw('default', taken))\n"
        f"console.save_svg('{SCREENSHOTS}/status.svg', title='manage.py channels_lite status')\n"
    )
    environment = child_environment(child.log.parent)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


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
    keep_screenshot(browser, "admin")
    rows = "document.querySelectorAll('#result_list tbody tr').length"
    assert browser.execute_script(f"return {rows}") == 4
    browser.get(f"{site}channels_lite/event/1/change/")
    text = until(browser, "document.getElementById('content').textContent")
    keep_screenshot(browser, "admin-message")
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
def test_purging_takes_the_permission_to_delete(browser, site, start):
    """Who may only look at messages has no way to throw them away."""
    log_in(browser, site, "viewer")
    start().do("create_event", channel="thumbnails", message={"type": "make"})
    browser.get(f"{site}channels_lite/event/")
    assert until(browser, "document.querySelectorAll('#result_list tbody tr').length") == 1
    assert browser.execute_script("return document.querySelector('[name=action]')") is None


@pytest.mark.parametrize("site", ["ASGI"], indirect=True)
def test_live_page_is_for_staff(browser, site):
    """A stranger is sent to the login, from the page and from its stream."""
    for page in ("live/", "live/stream/"):
        browser.get(f"{site}channels_lite/event/{page}")
        assert "/login/" in browser.current_url
