"""Lets the upkeep return free pages in small steps (sqlite.org/pragma.html#pragma_auto_vacuum).

SQLite requires to choose this before the first table, or to run VACUUM, which takes a moment on a
new file.  A database that also has other tables is not rebuilt: that is up to its owner.
"""

from typing import Any

from django.db import migrations

FOREIGN_TABLES = """
    SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name <> 'django_migrations'
    AND name NOT LIKE 'channels!_lite!_%' ESCAPE '!' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'
"""


def let_pages_be_given_back(apps: Any, schema_editor: Any) -> None:
    """Enables it, unless the database has other tables."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(FOREIGN_TABLES)
        if cursor.fetchone()[0]:
            return
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
        cursor.execute("VACUUM")


class Migration(migrations.Migration):
    atomic = False  # VACUUM cannot run in a transaction
    dependencies = [("channels_lite", "0002_wake_up")]
    operations = [
        migrations.RunPython(let_pages_be_given_back, migrations.RunPython.noop),
    ]
