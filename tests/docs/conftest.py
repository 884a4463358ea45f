"""Projects in which pages are followed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import browser
from tests.docs.pages import DOCS, blocks
from tests.docs.project import SERVES, Project

__all__ = ["browser"]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty folder outside of the repository; what is started in it ends with the test."""
    project = Project(tmp_path)
    yield project
    project.stop()


@pytest.fixture
def chat(project: Project) -> Project:
    """What the tutorial leads to, not running yet."""
    steps = blocks(DOCS / "tutorial.md")
    project.follow(step for step in steps if not any(map(SERVES.match, step.commands)))
    return project
