"""Every block of every page is run, checked or at least compiled."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, Block, blocks, filled
from tests.docs.project import INSTALLS

PYTHON = [block for block in blocks() if block.language == "python"]
COMMANDS = [(block, command) for block in blocks() for command in block.commands]

#: Pages whose files and commands are written and run by test_project.py.
FOLLOWED = {
    DOCS / name
    for name in (
        "tutorial.md",
        "recipes.md",
        "checks.md",
        "deployment.md",
        "troubleshooting.md",
        "scaling.md",
    )
} | {
    DOCS / "misses-nothing.md",  # by test_misses_nothing.py
    DOCS / "testing.md",  # by tests/testing
}
#: Files that are not Python, so not written and run there, and why.
NOT_RUN = {
    "/etc/systemd/system/chat.service": "it needs root; systemd itself verifies it",
    "Dockerfile": "it needs a Docker daemon",
    "compose.yaml": "the same; test_compose runs its commands",
    "/etc/litestream.yml": "it needs a bucket; test_litestream has a folder instead",
}


def is_settings(code: str) -> bool:
    """Whether it sets settings and does nothing else."""
    return all(
        isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").isupper()
        for node in ast.parse(code).body
    )


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_its_imports_are_there(block: Block):
    """Python on a page compiles, and what it imports from us and others is there."""
    tree = ast.parse(block.code)
    compile(tree, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(("channels", "django.core")):
            exec(compile(ast.Module([node], []), str(block), "exec"), {})  # names may be modules


@pytest.mark.parametrize("block", [block for block in PYTHON if is_settings(block.code)], ids=str)
def test_settings_pass_the_system_checks(block: Block, tmp_path: Path):
    """Settings on a page, put into a project, pass Django's system checks and make the layers."""
    code = filled(block.code)
    if code.startswith("CONFIG ="):
        code += "\nCHANNEL_LAYERS['default']['CONFIG'] = CONFIG\n"
    (tmp_path / "settings.py").write_text(
        "from pathlib import Path\nfrom tests.settings import *\n"
        f"BASE_DIR = Path({str(tmp_path)!r})\n{code}\n"
        "INSTALLED_APPS = list(dict.fromkeys(INSTALLED_APPS))\n"
        "DATABASES.setdefault('channels', DATABASES['default'])\n"
    )
    checked = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "check", "--settings=settings"],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("block", [block for block in blocks() if block.file], ids=str)
def test_files_are_on_a_page_that_is_followed(block: Block):
    """A block that names a file is written and run by a test, or stands in NOT_RUN."""
    is_run = block.page in FOLLOWED and block.language in {"python", "html"}
    is_run |= block.file[1] == "pytest.ini"  # by tests/testing
    assert is_run != (block.file[1] in NOT_RUN)


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=str)
def test_commands_are_run_or_known(block: Block, command: str):
    """A command is run by a test, installs something, or is a target of the Makefile."""
    if block.page in FOLLOWED or INSTALLS.match(command):
        return
    if command.startswith("python manage.py migrate"):
        return  # test_readme runs it
    if command.startswith("python manage.py channels_lite"):
        return  # tests/commands does
    make = re.match(r"make \w+", command)
    assert make, f"{block}: no test runs {command}"
    subprocess.run([shutil.which("make"), "-n", *make[0].split()[1:]], cwd=ROOT, check=True)
