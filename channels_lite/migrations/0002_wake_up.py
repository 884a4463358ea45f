"""From channels-lite 0.4.0 to sleeping receivers.  Messages waiting on plain channels are kept.

* Times become seconds since 1970 UTC: 0.4.0 wrote UTC or local time, depending on layer and
settings.
* Delivered rows and their flag are removed: a row that was read is deleted.
* Messages keep one index, by channel.  Each further index costs every message an insertion and a
  deletion, and no statement uses it.
"""

from typing import Any

from django.conf import settings
from django.db import migrations, models

import channels_lite.clock
import channels_lite.models


def times_to_numbers(apps: Any, schema_editor: Any) -> None:
    """Converts the text of the previous DateTimeField, in UTC or local time as Django wrote it."""
    zone = "" if settings.USE_TZ else ", 'utc'"
    for table, columns in (
        ("channels_lite_event", ("created_at", "expires_at")),
        ("channels_lite_groupmembership", ("joined_at", "expires_at")),
    ):
        for column in columns:
            schema_editor.execute(  # the names are those above
                f"UPDATE {table} SET {column} = (julianday({column}{zone}) - 2440587.5) * 86400.0"  # noqa: S608
                f" WHERE typeof({column}) = 'text'"
            )


def delete_what_is_of_the_dead(apps: Any, schema_editor: Any) -> None:
    """0.4.0 kept the full name of a process-local channel inside its message.

    That process has ended when this runs, so no process can read such rows, and its group
    memberships have ended, too.
    """
    alias = schema_editor.connection.alias
    for model, lookup in (("Event", "endswith"), ("GroupMembership", "contains")):
        rows = apps.get_model("channels_lite", model).objects.using(alias)
        rows.filter(**{f"channel_name__{lookup}": "!"}).delete()


def delete_delivered(apps: Any, schema_editor: Any) -> None:
    """0.4.0 kept delivered rows until they expired."""
    event = apps.get_model("channels_lite", "Event")
    event.objects.using(schema_editor.connection.alias).filter(delivered=True).delete()


class Migration(migrations.Migration):
    dependencies = [("channels_lite", "0001_initial")]
    operations = [
        migrations.RunPython(delete_delivered, migrations.RunPython.noop),
        migrations.RunPython(delete_what_is_of_the_dead, migrations.RunPython.noop),
        migrations.RemoveIndex("Event", "channels_li_channel_7553e7_idx"),
        migrations.RemoveIndex("GroupMembership", "channels_li_group_n_6c3675_idx"),
        migrations.RemoveField("Event", "delivered"),
        migrations.AddField("Event", "recipients", models.TextField(default="", blank=True)),
        migrations.AlterField(
            "Event",
            "created_at",
            channels_lite.models.UnixTimeField(default=channels_lite.clock.now, editable=False),
        ),
        migrations.AlterField(
            "Event",
            "expires_at",
            channels_lite.models.UnixTimeField(default=channels_lite.models.in_a_minute),
        ),
        migrations.AlterField(
            "GroupMembership",
            "joined_at",
            channels_lite.models.UnixTimeField(default=channels_lite.clock.now, editable=False),
        ),
        migrations.AlterField(
            "GroupMembership", "expires_at", channels_lite.models.UnixTimeField()
        ),
        migrations.RunPython(times_to_numbers, migrations.RunPython.noop),
        migrations.AddIndex(
            "Event", models.Index(name="channels_lite_event_channel", fields=["channel_name"])
        ),
        migrations.CreateModel(
            name="Boot",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        verbose_name="ID", auto_created=True, primary_key=True, serialize=False
                    ),
                ),
                ("boot_id", models.CharField(max_length=36)),
                ("began_at", channels_lite.models.UnixTimeField()),
                ("flushed_id", models.BigIntegerField(default=0)),
                ("flushed_at", channels_lite.models.UnixTimeField(default=0)),
            ],
        ),
    ]
