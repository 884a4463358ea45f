"""The package as a user installs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.xdist_group("wheels")


@cache
def pythons() -> dict[str, str]:
    """Each CPython from 3.10 on that is on the machine: its version and build, and its path.

    Free-threaded ones have a "t" behind the version.
    """
    names = [f"python3.{minor}{kind}" for minor in range(10, 16) for kind in ("", "t")]
    places = [*map(shutil.which, names), "/usr/bin/python3"]
    places += map(str, Path.home().glob(".pyenv/versions/3.*/bin/python"))
    asked = (
        "import sys, sysconfig, ensurepip, venv\n"
        "kind = 't' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''\n"
        "print(sys.version_info >= (3, 10) and sys.implementation.name == 'cpython',"
        " sys.version.split()[0] + kind + ' ' + sysconfig.get_config_var('prefix'))"
    )
    found = {}
    for place in filter(None, places):
        if not Path(place).exists():
            continue
        said = subprocess.run([place, "-c", asked], capture_output=True, text=True, check=False)
        fits, _, name = said.stdout.strip().partition(" ")
        if fits == "True":
            found.setdefault(name, place)
    return found


def version(name: str) -> tuple[int, ...]:
    """That of a Python, by its name."""
    return tuple(int(part) for part in re.findall(r"\d+", name)[:2])


def is_free_threaded(name: str) -> bool:
    """Whether it is one, by its name."""
    return name.partition(" ")[0].endswith("t")


def builders() -> dict[str, str]:
    """Who builds a wheel, by the tags that it gets: the newest that can, for older ones too."""
    found = {}
    for name in sorted(pythons(), key=version):
        if not is_free_threaded(name):
            found["cp310-abi3"] = name
        elif version(name) >= (3, 15):
            found["cp315-abi3.abi3t"] = name
        elif version(name) == (3, 14):
            found["cp314-cp314t"] = name
    return found


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, for a build leaves files behind."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("channels_lite", "csrc"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "_wakeup.c")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    return folder


def environment(python: str, folder: Path) -> Path:
    """Makes one without pip, which takes longer to install than the package; its Python."""
    command = [python, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "bin/python"


def pip(python: Path, what: str, *arguments: str, **environment: str) -> str:
    """Runs our pip on that environment, quietly; returns what it said."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    command += [what, *(["--no-compile"] if what == "install" else []), *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheels(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one wheel of each kind, built once: older Pythons have to import it."""
    folder = tmp_path_factory.mktemp("wheels")
    for tags, name in builders().items():
        build = folder / f"build-{tags}"  # nothing of another Python's is in it
        shutil.copytree(sources, build)
        python = environment(pythons()[name], folder / tags)
        pip(python, "wheel", "--no-deps", "--wheel-dir", str(folder / "made"), str(build))
    return folder / "made"


@pytest.fixture(scope="session")
def wheel(wheels: Path) -> Path:
    """That for every Python with a GIL."""
    [wheel] = wheels.glob("*-cp310-abi3-*")
    return wheel


@pytest.mark.parametrize("tags", sorted(builders()))
def test_wheel_is_tagged_for_what_it_serves(wheels: Path, tags: str):
    """For all CPythons from 3.10 on, or free-threaded ones; and the module is named so."""
    [wheel] = wheels.glob(f"*-{tags}-*")
    with ZipFile(wheel) as content:
        [module] = [name for name in content.namelist() if name.endswith(".so")]
    suffix = {
        "cp310-abi3": r"\.abi3\.so",
        "cp315-abi3.abi3t": r"\.abi3t(-[^.]+)?\.so",
        "cp314-cp314t": r"\.cpython-314t-[^.]+\.so",
    }[tags]
    assert re.fullmatch(r"channels_lite/wake/_wakeup" + suffix, module)


def test_wheel_has_what_is_not_python(wheel: Path):
    """Scripts, style sheets, templates and types are in it, every one."""
    package = ROOT / "channels_lite"
    files = [
        path for path in package.rglob("*.*") if path.suffix in {".js", ".css", ".html", ".pyi"}
    ]
    assert package / "static/channels_lite/resume.js" in files
    with ZipFile(wheel) as content:
        assert {str(path.relative_to(ROOT)) for path in files} <= set(content.namelist())


def tried() -> list[Any]:
    """Every Python; those in between are left to ``make chaos``."""
    names = sorted(pythons(), key=version)
    between = pytest.mark.chaos
    return [pytest.param(name, marks=between if name in names[1:-1] else ()) for name in names]


@pytest.mark.parametrize("name", tried())
def test_extension_works_on_each_python(wheels: Path, tmp_path: Path, name: str):
    """The wheel that pip takes hooks and wakes on this Python, in an environment made for it."""
    if version(name) < (3, 14) and is_free_threaded(name):
        pytest.skip("there is no wheel for the first free-threaded Python")
    python = environment(pythons()[name], tmp_path)
    ours = ["--no-index", "--find-links", str(wheels), "--no-deps"]
    pip(python, "install", *ours, "channels-lite")
    pip(python, "install", "channels-lite[notify]")
    checked = subprocess.run(
        [python, "-W", "error", ROOT / "tests/extension_check.py"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_wheel_delivers_where_there_is_no_compiler(wheel: Path, tmp_path: Path):
    """From the wheel, with no compiler in reach, a message of another process is woken for."""
    python = environment(sys.executable, tmp_path / "environment")
    path = {"PATH": str(python.parent)}
    assert not any(shutil.which(name, path=path["PATH"]) for name in ("cc", "gcc", "clang"))
    pip(python, "install", "--only-binary", ":all:", f"{wheel}[notify]", **path)
    inherited = {key: os.environ[key] for key in os.environ if key[:6] not in {"PYTHON", "DJANGO"}}
    checked = subprocess.run(
        [python, ROOT / "tests/delivery_check.py"],
        cwd=tmp_path,
        env=inherited | path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout == "delivered\n"


def test_installs_without_a_compiler(sources: Path, tmp_path: Path):
    """Without a C compiler the plain installation succeeds, and it brings no server."""
    python = environment(sys.executable, tmp_path / "environment")
    pip(python, "install", str(sources), CC="/bin/false")
    code = "from channels_lite.wake.hooks import hooks; print(hooks.reason)"
    said = subprocess.run(
        [python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "the C extension is missing" in said.stdout, said.stderr
    installed = pip(python, "list", "--format=freeze")
    names = {line.partition("==")[0].lower() for line in installed.splitlines()}
    assert names <= {"asgiref", "channels", "channels-lite", "django", "msgspec", "sqlparse",
                     "typing_extensions"}  # fmt: skip
