"""Adds the histories of groups.

The new column is NULL in rows of processes of the previous version, which keep working.  It is
added with plain SQL, because Django would rebuild the table and lose the triggers of ``0004``.
"""

from django.db import migrations, models

import channels_lite.clock
import channels_lite.models


class Migration(migrations.Migration):
    dependencies = [("channels_lite", "0004_flow_control")]
    operations = [
        migrations.RunSQL(
            ["ALTER TABLE channels_lite_groupmembership ADD COLUMN after_id bigint NULL"],
            ["ALTER TABLE channels_lite_groupmembership DROP COLUMN after_id"],
            [
                migrations.AddField(
                    "GroupMembership",
                    "after_id",
                    models.BigIntegerField(default=None, editable=False, null=True),
                )
            ],
        ),
        migrations.CreateModel(
            name="GroupMessage",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("group_name", models.CharField(max_length=100)),
                (
                    "created_at",
                    channels_lite.models.UnixTimeField(
                        default=channels_lite.clock.now, editable=False
                    ),
                ),
                ("data", models.BinaryField()),
            ],
            options={
                "indexes": [
                    models.Index(fields=["group_name"], name="channels_lite_history_group")
                ],
            },
        ),
        migrations.CreateModel(
            name="GroupHistory",
            fields=[
                (
                    "group_name",
                    models.CharField(max_length=100, primary_key=True, serialize=False),
                ),
                ("trimmed_id", models.BigIntegerField(default=0)),
                ("stamp", models.BigIntegerField(default=0)),
                (
                    "changed_at",
                    channels_lite.models.UnixTimeField(
                        default=channels_lite.clock.now, editable=False
                    ),
                ),
            ],
            options={"verbose_name_plural": "group histories"},
        ),
    ]
