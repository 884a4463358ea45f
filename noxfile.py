"""Every supported Python, Django and Channels, from one command: ``nox``, or ``pipx run nox``.

``nox`` runs the suite on all of them, in some hours; ``nox -- tests/contract`` a part, and
``nox -s "tests(python=3.10, django=4.2, channels=4.1)"`` one of them; a Python that the machine
lacks is skipped.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

# Each Django with the Pythons that it supports (docs.djangoproject.com/en/stable/faq/install/).
PYTHONS = {
    "4.2": ["3.10", "3.11", "3.12"],
    "5.2": ["3.10", "3.11", "3.12", "3.13", "3.14"],
    "6.0": ["3.12", "3.13", "3.14"],
    "newest": ["3.12", "3.13", "3.14", "3.15", "3.14t", "3.15t"],
}
CHANNELS = ["4.1", "newest"]
CELLS = [
    nox.param(python, django, channels, id=f"python={python}, django={django}, channels={channels}")
    for django, pythons in PYTHONS.items()
    for python in pythons
    for channels in CHANNELS
]

# All but what builds wheels, for every Python that is there, whichever runs it.
SUITE = ["--numprocesses", "4", "--dist", "loadgroup", "--ignore", "tests/test_packaging.py"]


def requirement(package: str, version: str) -> str:
    """``django~=4.2.0`` for "4.2": the newest of that series."""
    return package if version == "newest" else f"{package}~={version}.0"


@nox.session
@nox.parametrize(["python", "django", "channels"], CELLS)
def tests(session: nox.Session, django: str, channels: str) -> None:
    """The suite; arguments go to pytest."""
    session.install("--upgrade", "pip>=25.1")  # the first that knows --group
    session.install(
        "--editable", ".[all]", "--group", "test",
        requirement("django", django), requirement("channels", channels),
    )  # fmt: skip
    if str(session.python).endswith("t"):
        session.run("python", "-m", "pip", "uninstall", "--yes", "hiredis")  # it enables the GIL
    session.run("python", "-m", "pytest", *(session.posargs or SUITE))
