"""The package as a user installs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent


def pythons() -> dict[str, str]:
    """Each CPython from 3.10 on that is on the machine: its version and build, and its path.

    But for free-threaded ones, for which the one wheel is not.
    """
    places = [shutil.which(f"python3.{minor}") for minor in range(10, 16)]
    places += ["/usr/bin/python3", *map(str, Path.home().glob(".pyenv/versions/3.*/bin/python"))]
    asked = (
        "import sys, sysconfig, ensurepip, venv\n"
        "print(sys.version_info >= (3, 10) and sys.implementation.name == 'cpython'"
        " and not sysconfig.get_config_var('Py_GIL_DISABLED'),"
        " sys.version.split()[0] + ' ' + sysconfig.get_config_var('prefix'))"
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


def pip(python: str | Path, *arguments: str, **environment: str) -> str:
    """Runs pip, quietly; returns what it said."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once, by the newest Python: older ones have to import what it makes."""
    folder = tmp_path_factory.mktemp("wheel")
    name = max(pythons(), key=lambda name: [int(part) for part in re.findall(r"\d+", name)[:2]])
    subprocess.run([pythons()[name], "-m", "venv", str(folder / "builder")], check=True)
    python = folder / "builder/bin/python"
    pip(python, "wheel", "--no-deps", "--wheel-dir", str(folder / "made"), str(sources))
    [wheel] = (folder / "made").iterdir()
    return wheel


def test_one_wheel_serves_every_python(wheel: Path):
    """It is tagged for the stable ABI from CPython 3.10 on, and the module is named so."""
    assert "-cp310-abi3-" in wheel.name
    with ZipFile(wheel) as content:
        [module] = [name for name in content.namelist() if name.endswith(".so")]
    assert module == "channels_lite/wake/_wakeup.abi3.so"


@pytest.mark.parametrize("name", sorted(pythons()))
def test_extension_works_on_each_python(wheel: Path, tmp_path: Path, name: str):
    """The one wheel hooks and wakes on this Python, in an environment made for it."""
    python = pythons()[name]
    subprocess.run([python, "-m", "venv", str(tmp_path)], check=True, capture_output=True)
    pip(tmp_path / "bin/python", "install", f"{wheel}[notify]")
    checked = subprocess.run(
        [tmp_path / "bin/python", ROOT / "tests/extension_check.py"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_wheel_delivers_where_there_is_no_compiler(wheel: Path, tmp_path: Path):
    """From the wheel, with no compiler in reach, a message of another process is woken for."""
    venv.create(tmp_path / "environment", with_pip=True)
    binaries = tmp_path / "environment/bin"
    path = {"PATH": str(binaries)}
    assert not any(shutil.which(name, path=path["PATH"]) for name in ("cc", "gcc", "clang"))
    pip(binaries / "python", "install", "--only-binary", ":all:", f"{wheel}[notify]", **path)
    inherited = {key: os.environ[key] for key in os.environ if key[:6] not in {"PYTHON", "DJANGO"}}
    checked = subprocess.run(
        [binaries / "python", ROOT / "tests/delivery_check.py"],
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
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment/bin/python"
    pip(python, "install", str(sources), CC="/bin/false")
    code = "from channels_lite.wake.hooks import hooks; print(hooks.reason)"
    said = subprocess.run(
        [python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "the C extension is missing" in said.stdout, said.stderr
    installed = pip(python, "list", "--format=freeze")
    names = {line.partition("==")[0].lower() for line in installed.splitlines()}
    assert names <= {"asgiref", "channels", "channels-lite", "django", "msgspec", "pip",
                     "setuptools", "sqlparse", "typing_extensions"}  # fmt: skip
