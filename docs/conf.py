"""The site that ``make docs`` builds: Sphinx, MyST for the Markdown, furo."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import channels_lite

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "channels-lite"
author = "The channels-lite developers"
version = release = channels_lite.__version__
extensions = ["myst_parser"]
# Headings can be linked to, as wherever Markdown is shown.
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"channels-lite {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Files of the repository that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
    "benchmarks/README.md": "benchmarks.md",
    "csrc/model/README.md": "model.md",
    "tests/chaos/README.md": "faults.md",
}
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?\)")


def relinked(text: str, source: Path, page: str) -> str:
    """``text`` of the file ``source``, its relative links made to be right on ``page``."""

    def link(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if not (target.exists() and target.is_relative_to(ROOT)):
            return found[0]  # Sphinx will say what is wrong with it
        name = target.relative_to(ROOT).as_posix()
        target = DOCS / PAGES[name] if name in PAGES else target
        relative = os.path.relpath(target, (DOCS / page).parent)
        return f"{found[1]}{relative}{found[3] or ''})"

    return LINK.sub(link, text)


def setup(app: Sphinx) -> None:
    """Pages and what they include are read on GitHub, too, where links are to files."""

    def read(app: Sphinx, page: str, content: list[str]) -> None:
        content[0] = relinked(content[0], DOCS / f"{page}.md", page)

    def include(app: Sphinx, path: Path, page: str, content: list[str]) -> None:
        content[0] = relinked(content[0], DOCS / path, page)

    app.connect("source-read", read)
    app.connect("include-read", include)
