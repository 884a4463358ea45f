"""The schema of channels-lite 0.4.0, unchanged, so that its databases upgrade by ``migrate``."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        verbose_name="ID", auto_created=True, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("expires_at", models.DateTimeField(db_index=True)),
                ("channel_name", models.CharField(max_length=100)),
                ("data", models.BinaryField()),
                ("delivered", models.BooleanField(default=False)),
            ],
            options={
                "indexes": [
                    models.Index(
                        name="channels_li_channel_7553e7_idx",
                        fields=["channel_name", "delivered", "expires_at"],
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="GroupMembership",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        verbose_name="ID", auto_created=True, primary_key=True, serialize=False
                    ),
                ),
                ("group_name", models.CharField(max_length=100)),
                ("channel_name", models.CharField(max_length=100)),
                ("expires_at", models.DateTimeField(db_index=True)),
                ("joined_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "indexes": [
                    models.Index(
                        name="channels_li_group_n_6c3675_idx",
                        fields=["group_name", "expires_at"],
                    ),
                ],
                "unique_together": {("group_name", "channel_name")},
            },
        ),
    ]
