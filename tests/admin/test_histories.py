"""The page of histories, by Django's test client."""

from __future__ import annotations

from tests.processes.conftest import empty_database, folder, run_script

__all__ = ["empty_database", "folder"]

SCRIPT = """
import django; django.setup()
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from channels_lite.models import GroupMessage
call_command("migrate", verbosity=0)
layer = get_channel_layer()
for group in ("room_one", "room_two"):
    for number in range(3):
        async_to_sync(layer.group_send)(group, {"number": number})
before = async_to_sync(layer.group_history)("room_one")
client = Client()
client.force_login(User.objects.create_superuser("admin"))
page = "/admin/channels_lite/groupmessage/"
shown = client.get(page).content.decode()
assert shown.count('class="field-messages">3<') == 2, shown
last = GroupMessage.objects.filter(group_name="room_one").latest("id")
asked = {"action": "purge_histories", "_selected_action": [last.pk]}
said = client.post(page, asked, follow=True).content.decode()
assert "3 messages of 1 histories deleted" in said, said
assert GroupMessage.objects.count() == 3
after = async_to_sync(layer.group_history)("room_one", before.messages[0]["history_id"])
assert not after and not after.messages
assert async_to_sync(layer.group_history)("room_one", before.position)
assert client.post(page, asked | {"action": "delete_selected"}).status_code == 302
assert client.get(f"{page}{last.pk}/delete/").status_code in (302, 403)
print("done")
"""


def test_histories_are_shown_and_purged(folder):
    """Each group once, with its size; a purge leaves no message, and is no secret."""
    done = run_script(
        folder,
        SCRIPT,
        DJANGO_SETTINGS_MODULE="tests.admin.settings",
        TEST_CONFIG='{"group_history": {"room_*": {"messages": 9, "seconds": 60}}}',
    )
    assert done.stdout.endswith("done\n"), done.stderr
