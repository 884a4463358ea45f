"""The site, and what its pages say about the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from channels_lite import checks
from tests.docs.pages import DOCS, ROOT, blocks


def test_site_is_built_without_a_warning(tmp_path: Path):
    """All pages are in the navigation; links, anchors and images of each lead somewhere."""
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    pages = "".join(page.read_text() for page in tmp_path.glob("**/*.html"))
    # Whoever reads it offline, or does not want to be seen reading, sees all of it.
    assert re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(?:https?:)?//[^"]*', pages) == []


def test_configuration_page_is_up_to_date(tmp_path: Path):
    """docs/configuration.md says what channels_lite/config.py says."""
    page = DOCS / "configuration.md"
    said = page.read_text()
    code = f"import sys; sys.path[:0] = [{str(DOCS)!r}]; import reference; print(reference.page())"
    written = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said == written.stdout.removesuffix("\n"), "run python docs/reference.py"


def test_each_check_has_its_section():
    """docs/checks.md has a section for each id that channels_lite/checks.py gives, and no other."""
    given = set(re.findall(r'id="(channels_lite\.\w+)"', Path(checks.__file__).read_text()))
    assert set(re.findall(r"^## `(.*)`$", (DOCS / "checks.md").read_text(), re.M)) == given


def test_extras_bring_what_the_readme_says():
    """The table of extras names the very packages that each extra installs."""
    _, _, table = (ROOT / "README.md").read_text().partition("| extra |")
    table, _, _ = table.partition("\n\n")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.+) \|$", table, re.M)
    said = {(extra, package) for extra, brought in rows for package in brought.split(", ")}
    required = metadata.requires("channels-lite") or []
    found = [re.match(r"([\w-]+).*; extra == ['\"](\w+)", each) for each in required]
    # An extra that only names another one is "all", or a former name.
    assert said == {(each[2], each[1]) for each in found if each and each[1] != "channels-lite"}


def test_typed_recipe_is_type_checked():
    """What the page shows of types is what ``make lint`` puts before mypy and pyright."""
    [block] = [each for each in blocks(DOCS / "recipes.md") if "TypedDict" in each.code]
    checked = ROOT / "tests/typing" / block.file[1]
    assert block.code[block.file.end() :] == checked.read_text()


def messages() -> list[re.Pattern[str]]:
    """The texts of channels_lite, with anything where a value goes."""
    found = set()
    for path in (ROOT / "channels_lite").glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts: list[ast.expr] = []
            if isinstance(node, ast.JoinedStr):
                parts = node.values
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node]
            texts = [part.value if isinstance(part, ast.Constant) else "%s" for part in parts]
            text = "".join(map(str, texts))
            if len(text) >= 20:
                pattern = re.escape(text)
                found.add(re.sub(r"%[sdr]", ".+", pattern))
    return [re.compile(pattern, re.DOTALL) for pattern in found]


LINES = [
    line
    for block in blocks(DOCS / "troubleshooting.md")
    if block.language == "output"
    for line in block.code.splitlines()
]


@pytest.mark.parametrize("line", LINES)
def test_log_lines_are_real(line: str):
    """A log line of the troubleshooting page is one that the code writes."""
    assert any(pattern.fullmatch(line) for pattern in messages())
