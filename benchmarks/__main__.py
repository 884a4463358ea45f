"""``python -m benchmarks WHAT [WHAT ...] [--layers a,b] [--json FILE] [--short]``.

WHAT is a workload, ``all``, or ``plots FILE``, which draws the plots and prints the tables of a
results file again.  Ends with 0, with 2 after a wrong argument, with 130 after an interrupt.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.status import Status

from benchmarks.interrupts import catch_interrupts
from benchmarks.peers import PEERS
from benchmarks.report import print_report
from benchmarks.results import Results
from benchmarks.run import Run
from benchmarks.workloads import NAMES

progress = Console(stderr=True)
# Wider than a narrow terminal, which breaks a line, where a table would cut the digits.
tables = Console(width=150)


class WrongArgument(Exception):
    """One line that names what is known."""


def workloads_of(what: list[str]) -> list[str]:
    """``all``, or those named, each once."""
    for name in what:
        if name not in NAMES and name != "all":
            raise WrongArgument(f"unknown workload {name!r}; known are: all, {', '.join(NAMES)}")
    return NAMES if "all" in what else list(dict.fromkeys(what))


def layers_of(text: str) -> list[str]:
    """The names between the commas."""
    layers = [name.strip() for name in text.split(",") if name.strip()]
    for name in layers:
        if name not in PEERS:
            raise WrongArgument(f"unknown layer {name!r}; known are: {', '.join(PEERS)}")
    return layers


def results_file(arguments: list[str]) -> Path:
    """What follows ``plots``."""
    if len(arguments) != 1:
        raise WrongArgument("plots takes one results file: python -m benchmarks plots FILE")
    return Path(arguments[0])


def draw(file: Path) -> int:
    """The plots and the tables of a results file."""
    from benchmarks.plots import draw_all  # noqa: PLC0415 - matplotlib takes a second to import

    try:
        results = Results(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError) as problem:
        raise WrongArgument(f"{file} is no results file: {problem!r}") from None
    print_report(results, tables)
    for path in draw_all(results):
        progress.print(f"drew {path.name}")
    return 0


def measure(what: list[str], layers: list[str], file: Path | None, short: bool) -> int:
    """Runs, prints the tables, and writes the JSON, also when it is interrupted."""
    catch_interrupts()
    status = Status("", console=progress, refresh_per_second=2)  # it takes CPU from the rest

    def say(text: str) -> None:
        if progress.is_terminal:
            status.update(text)
        else:
            progress.print(text, highlight=False)

    def warn(text: str) -> None:
        progress.print(text, style="yellow", markup=False, highlight=False)

    run, code = Run(layers, short, say, warn), 0
    try:
        with status, run:
            run.run(what)
    except KeyboardInterrupt:
        warn("interrupted; what was measured until now is kept")
        code = 130
    finally:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(run.found, indent=1)
            # A list of numbers on one line: the file is read by people, and kept in git.
            text = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)
            file.write_text(text + "\n")
    print_report(Results(run.found), tables)
    return code


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="+", metavar="WHAT", help=f"all, {', '.join(NAMES)}, plots")
    parser.add_argument("--layers", default="", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument(
        "--short", action="store_true", help="a smoke test: few messages, one round"
    )
    asked = parser.parse_args()
    try:
        if asked.what[0] == "plots":
            return draw(results_file(asked.what[1:]))
        what, layers = workloads_of(asked.what), layers_of(asked.layers)
    except WrongArgument as problem:
        print(f"benchmarks: {problem}", file=sys.stderr)
        return 2
    return measure(what, layers, asked.json, asked.short)


if __name__ == "__main__":
    sys.exit(main())
