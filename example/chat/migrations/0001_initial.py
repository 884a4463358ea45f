import os

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Message",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("room", models.CharField(db_index=True, max_length=40)),
                ("name", models.CharField(max_length=30)),
                ("text", models.CharField(max_length=500)),
                ("via", models.CharField(max_length=10)),
                ("pid", models.PositiveIntegerField(default=os.getpid)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
    )
