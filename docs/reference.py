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

This page describes the keys of `CHANNEL_LAYERS[alias]["CONFIG"]`. All three layers take all keys,
and every key is optional. A layer with an unknown key or a wrong value does not start, and
`manage.py check` reports it as [`channels_lite.E001`](checks.md).

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

The layers' connections follow the settings of their alias in `DATABASES`:

* `OPTIONS["timeout"]`: the seconds to wait for a lock. Then the layer raises `StoreUnavailable`.
  The default is {timeout:g}, or 5 on Django's own connections, as inside `atomic()`.
* `OPTIONS["init_command"]`: the statements that a new connection runs. By default the notify and
  aio layers run the statements below, and the core layer runs the first one. A `busy_timeout` in it
  has no effect, because the layers retry locks themselves.
* `OPTIONS["transaction_mode"]`: Django's own option. Use `"IMMEDIATE"` for a database that models
  share with messages.

```sql
{pragmas}
```
"""

MESSAGES = """
## Message content

A message is a dict of up to 64 MiB. It may contain dicts, lists, strings, bytes, 64-bit integers,
floats, booleans and `None`, nested to any depth. Values and keys arrive by the rules below, or
`send()` raises `InvalidMessage`. In every format:

* Tuples and sets arrive as lists, or as tuples in keys.
* A dataclass arrives as a dict, and a member of an enumeration as its value.
* An instance of a subclass arrives as the type that the class derives from, with the stored value.
  A `SafeString` arrives as a string, a member of an `IntEnum` as a number, a `QueryDict` as a dict
  of lists.
* A lazy string, such as that of `gettext_lazy`, arrives as its text in the sender's language.
* With `"msgpack_types"`, UUIDs, decimals and datetimes arrive unchanged. In the other formats they
  arrive as text.
* Any other object, such as a model or a queryset, raises `InvalidMessage` in the sender. With
  `"json"`, so do keys that are not text, and floats that are infinite or not a number.

## Custom serializers

Subclass a serializer of channels-lite, or `BaseMessageSerializer`. Register the class when Django
starts, for example in the `ready` method of an `AppConfig`. Select the class with
`"serializer_format": "compressed"`, its registered name.

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

`from_bytes` must raise `ValueError` for data that it cannot decode. The layer then drops that
message, and logs the reason.
"""


def comments() -> dict[str, str]:
    """The ``#:`` comment above each key, as one line of Markdown."""
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
