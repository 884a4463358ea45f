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

MESSAGES = """
## What a message carries

A dict of dicts, lists, strings, bytes, whole numbers of 64 bits, floats, booleans and `None`,
nested as you like, of up to 64 MiB. What you send arrives by these rules, in values and in keys, or
`send()` raises `InvalidMessage`. In every format:

* Tuples and sets arrive as lists, in keys as tuples; a dataclass arrives as a dict, and a member of
  an enumeration as its value.
* A subclass arrives as the type that it is derived from, with what is stored in it: `SafeString`
  as a string, a member of an `IntEnum` as a number, a `QueryDict` as a dict of lists.
* A lazy string, as `gettext_lazy` makes it, arrives as its text in the sender's language.
* UUIDs, decimals and datetimes arrive as what they are with `"msgpack_types"`; in the other formats
  they arrive as text.
* Anything else, such as a model or a queryset, is refused; by `"json"` keys that are no text, too,
  and floats that are infinite or no number.

## Serializers of your own

Subclass one of ours, or `BaseMessageSerializer`, and register it when Django starts, as in the
`ready` of an `AppConfig`. Then `"serializer_format": "compressed"` names it.

```python
import zlib

from channels_lite.serializers import MsgPackSerializer, registry


class CompressedSerializer(MsgPackSerializer):
    def as_bytes(self, message):
        return zlib.compress(super().as_bytes(message))

    def from_bytes(self, data):
        try:
            return super().from_bytes(zlib.decompress(data))
        except zlib.error as error:
            raise ValueError(f"it is not compressed: {error}") from None


registry.register_serializer("compressed", CompressedSerializer)
```

`from_bytes` raises `ValueError` for what it cannot read; the layer drops that message and logs why.
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
    return "\n".join(parts) + MESSAGES


if __name__ == "__main__":
    PAGE.write_text(page())
