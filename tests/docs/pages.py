"""The code blocks of the documentation.

A block whose first line is a comment with a path is a file: ``# chat/views.py``; with ``, at the
end`` behind it, it is added to that.  In a console block lines that start with ``$`` are commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# |<!-- )(/?[\w./-]*(?:\.\w+|Dockerfile))(, at the end)?(?: -->)?\n")


@dataclass
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> re.Match[str] | None:
        """The first line, if it names a file: its path, and whether it is added to."""
        return FILE.match(self.code)

    @property
    def commands(self) -> list[str]:
        """What is typed at the prompt."""
        return [line[2:] for line in self.code.splitlines() if line.startswith("$ ")]


def blocks(*pages: Path) -> Iterator[Block]:
    """All blocks of ``pages``, in order; all pages' if none is named."""
    for page in pages or PAGES:
        text = page.read_text()
        for found in BLOCK.finditer(text):
            yield Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])


def filled(code: str) -> str:
    """Settings with a project's own where the page has ``...``."""
    database = '{"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}'
    code = code.replace("[...,", "[*INSTALLED_APPS,")
    return code.replace('"default": ...,', f'"default": {database},')
