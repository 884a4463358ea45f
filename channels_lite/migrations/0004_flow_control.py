"""Who a message is for, which life of the database it is, and what changed about which group.

All by plain SQL, in milliseconds: no table is rebuilt, so it can run on a database in use.

* Columns have their default in SQL, too: processes of the former version, and applications that
  write rows by SQL of their own, go on without naming them.
* A group's version is a random number that triggers replace whenever anybody changes a membership
  of the group, by whatever means: a process that has read the members asks for no more than this
  number.  Random, and not counted, so that none ever comes again: not after a rollback, nor after
  its row was deleted.  It is in no model: ``loaddata`` must not bring an old number back, which is
  what a fixture would do, and neither ``flush`` nor the admin have any business with it.

A migration that rebuilds one of these tables, as Django's ``AlterField`` does, loses the defaults
and the triggers, and has to make them again; where they are lost, ``groups.py`` does without.
"""

from django.db import migrations, models

# Not INSERT OR REPLACE, nor OR IGNORE: the statement that fires a trigger decides about conflicts
# in it, unless they have an ON CONFLICT of their own (sqlite.org/lang_createtrigger.html).
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
    """One on the table of memberships."""
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
