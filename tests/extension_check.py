"""Run by each Python of the machine: the installed extension hooks, and wakes after a commit."""

from __future__ import annotations

import select
import sqlite3
import sys
import sysconfig
import tempfile
from pathlib import Path

from channels_lite.wake.fifo import Fifo
from channels_lite.wake.hooks import hooks


def main() -> None:
    """Exits with what failed."""
    if hooks.reason:
        sys.exit(hooks.reason)
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys._is_gil_enabled():
        sys.exit("free-threaded Python took its GIL for a module that did not say it needs none")
    with tempfile.TemporaryDirectory() as folder:
        sidecar = Path(folder) / "x.sqlite3-wake"
        fifo = Fifo(sidecar, "token")
        connection = sqlite3.connect(f"{folder}/x.sqlite3", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE channels_lite_event (id INTEGER PRIMARY KEY, channel_name TEXT)"
        )
        refused = hooks.attach(connection, str(sidecar).encode())
        if refused:
            sys.exit(refused)
        insert = "INSERT INTO channels_lite_event (channel_name) VALUES ('specific.token!')"
        for statement, is_woken in [
            ("BEGIN", False),
            (insert, False),
            ("ROLLBACK", False),
            ("BEGIN", False),
            (insert, False),
            ("COMMIT", True),
            (insert, True),
            ("PRAGMA wal_autocheckpoint = 500", False),
            (insert, True),
        ]:
            connection.execute(statement)
            if bool(select.select([fifo.fd], [], [], 0)[0]) != is_woken:
                sys.exit(f"after {statement}: the FIFO should be {is_woken=}")
            fifo.drain()
        connection.close()
        fifo.close()
    way = "load_extension" if hooks._by_extension else "dlsym"
    print(f"{sys.version.split()[0]}: hooked by {way}, SQLite {sqlite3.sqlite_version}")


if __name__ == "__main__":
    main()
