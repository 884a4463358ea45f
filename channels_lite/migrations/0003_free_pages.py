"""Lets the upkeep give free pages back in small steps (sqlite.org/pragma.html#pragma_auto_vacuum).

SQLite asks that this is chosen before the first table, or takes effect by a VACUUM: on a new file
that is a moment.  A database that has other tables, too, is its owner's to rebuild.
"""

from typing import Any

from django.db import migrations

FOREIGN_TABLES = """
    SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name <> 'django_migrations'
    AND name NOT LIKE 'channels!_lite!_%' ESCAPE '!' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'
"""


def let_pages_be_given_back(apps: Any, schema_editor: Any) -> None:
    """Unless somebody else's tables are there."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(FOREIGN_TABLES)
        if cursor.fetchone()[0]:
            return
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
        cursor.execute("VACUUM")


class Migration(migrations.Migration):
    atomic = False  # no VACUUM within a transaction
    dependencies = [("channels_lite", "0002_wake_up")]
    operations = [
        migrations.RunPython(let_pages_be_given_back, migrations.RunPython.noop),
    ]
