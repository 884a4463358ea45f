"""Adds the group flag of messages, the table's generation, and the versions of groups.

It uses plain SQL and takes milliseconds: no table is rebuilt, so it can run on a database in use.

* The columns also have their defaults in SQL.  So processes of the previous version, and
applications
  that insert rows with their own SQL, keep working without naming them.
* A group's version is a random number.  Triggers replace it whenever any program changes a
  membership of the group, so a process that has read the members needs to read only this number.
  It is random and not counted, so that no number recurs, neither after a rollback nor after its row
  was deleted.  It is in no model, because ``loaddata`` must not restore an old number from a
  fixture, and ``flush`` and the admin must not touch it.

A migration that rebuilds one of these tables, like Django's ``AlterField``, loses the defaults and
the triggers, and must create them again.  If they are lost, ``groups.py`` works without them.
"""

from django.db import migrations, models

# Not INSERT OR REPLACE or OR IGNORE: the statement that fires a trigger decides about conflicts in
# it, unless they have their own ON CONFLICT (sqlite.org/lang_createtrigger.html).
RENEW = """
    INSERT INTO channels_lite_groupversion (group_name, version)
    VALUES (NEW.group_name, random())
    ON CONFLICT (group_name) DO UPDATE SET version = excluded.version;
"""
RENEW_OLD = """
    UPDATE channels_lite_groupversion SET version = random()
    WHERE group_name = OLD.group_name
"""


def trigger(event: str, body: str) -> migrations.RunSQL:
    """A trigger on the table of memberships."""
    name = f"channels_lite_groupversion_{event.lower()}"
    return migrations.RunSQL(
        [
            f"CREATE TRIGGER {name} AFTER {event} ON channels_lite_groupmembership"
            f" FOR EACH ROW BEGIN {body} END"
        ],
        [f"DROP TRIGGER IF EXISTS {name}"],
    )


class Migration(migrations.Migration):
    dependencies = [("channels_lite", "0003_free_pages")]
    operations = [
        migrations.RunSQL(
            ["ALTER TABLE channels_lite_event ADD COLUMN is_group bool NOT NULL DEFAULT 0"],
            ["ALTER TABLE channels_lite_event DROP COLUMN is_group"],
            [migrations.AddField("Event", "is_group", models.BooleanField(default=False))],
        ),
        migrations.RunSQL(
            ["ALTER TABLE channels_lite_boot ADD COLUMN generation bigint NOT NULL DEFAULT 0"],
            ["ALTER TABLE channels_lite_boot DROP COLUMN generation"],
            [migrations.AddField("Boot", "generation", models.BigIntegerField(default=0))],
        ),
        migrations.RunSQL(
            [
                "CREATE TABLE channels_lite_groupversion"
                " (group_name varchar(100) NOT NULL PRIMARY KEY, version bigint NOT NULL)"
                " WITHOUT ROWID",
                "INSERT INTO channels_lite_groupversion SELECT group_name, random()"
                " FROM channels_lite_groupmembership GROUP BY group_name",
            ],
            ["DROP TABLE IF EXISTS channels_lite_groupversion"],
        ),
        trigger("INSERT", RENEW),
        trigger("UPDATE", f"{RENEW_OLD} AND OLD.group_name <> NEW.group_name; {RENEW}"),
        trigger("DELETE", f"{RENEW_OLD};"),
    ]
