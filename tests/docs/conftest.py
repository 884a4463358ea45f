"""Projects in which pages are followed."""

from __future__ import annotations

import shutil
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


@pytest.fixture(scope="session")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one who has followed the tutorial."""
    project = Project(tmp_path_factory.mktemp("tutorial"))
    steps = blocks(DOCS / "tutorial.md")
    project.follow(step for step in steps if not any(map(SERVES.match, step.commands)))
    return project.folder


@pytest.fixture
def chat(project: Project, followed: Path) -> Project:
    """What the tutorial leads to, not running yet."""
    shutil.copytree(followed, project.folder, dirs_exist_ok=True)
    return project
