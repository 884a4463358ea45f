"""Writes docs/configuration.md from channels_lite/config.py: ``python docs/reference.py``."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

from channels_lite import config
from channels_lite.store.connection import DEFAULT_TIMEOUT, PRAGMAS

PAGE = Path(__file__).parent / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by docs/reference.py from channels_lite/config.py; `make docs` does. -->

The keys of `CHANNEL_LAYERS[alias]["CONFIG"]`. All three layers take all of them, and none is
needed. A wrong key or value is an error at the start, [`channels_lite.E001`](checks.md).

```python
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_lite.layers.notify.NotifyChannelLayer",
        "CONFIG": {
            "database": "channels",
            "capacity": 200,
            "channel_capacity": {"thumbnails": 1000, "http.request*": 50},
        },
    }
}
```
"""

TAIL = """\
## The database

What the alias in `DATABASES` says holds for the layers' connections, too:

* `OPTIONS["timeout"]`: seconds to wait for a lock, then `StoreUnavailable`. Left out: {timeout:g};
  on Django's own connections, as inside `atomic()`, 5.
* `OPTIONS["init_command"]`: what a new connection runs. Left out, the notify and aio layers run
  the statements below. A `busy_timeout` in it does not count: the layers wait by themselves.
* `OPTIONS["transaction_mode"]`: Django's own; `"IMMEDIATE"` for a database that models share with
  messages.

```sql
{pragmas}
```
"""


def comments() -> dict[str, str]:
    """What the ``#:`` lines above each key say, in one line of Markdown."""
    source = Path(config.__file__).read_text()
    [keys] = [node for node in ast.parse(source).body
              if isinstance(node, ast.ClassDef) and node.name == "Config"]  # fmt: skip
    lines = source.splitlines()
    found = {}
    for node in keys.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = last = node.lineno - 1
            while lines[first - 1].strip().startswith("#:"):
                first -= 1
            text = " ".join(line.strip().removeprefix("#:") for line in lines[first:last])
            found[node.target.id] = re.sub(r"\s+", " ", text).strip().replace("``", "`")
    return found


def page() -> str:
    """The whole page."""
    said = comments()
    parts = [HEAD]
    for key in fields(config.Config):
        _, what = key.metadata["rule"]
        nullable = ", or `None`" if key.default is None else ""
        default = repr(key.default).replace("'", '"')
        parts.append(
            f"## `{key.name}`\n\n{said[key.name]}\n\n"
            f"*Takes* {what}{nullable}. *Default:* `{default}`.\n"
        )
    pragmas = "\n".join(f"{line};" for line in ("PRAGMA journal_mode = WAL", *PRAGMAS))
    parts.append(TAIL.format(timeout=DEFAULT_TIMEOUT, pragmas=pragmas))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
