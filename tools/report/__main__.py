"""A run as one page: whether it learned, on what numbers, and which pictures it gets wrong.

    python -m tools.report logs/RUN          also a run's name, or last

Writes report.html into the run's folder: one file, which opens without a network and runs nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from config import ConfigError
from engine.run import find_run
from inspection.record import read_run
from inspection.render import render
from tools.report.page import page
from utils import command_line, write_text

TEMPLATE = Path(__file__).with_name("page.html")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="a run's folder of logs, its name, or last")
    parser.add_argument("--no-looks", action="store_true", help="leave the attention maps out")
    args = parser.parse_args(argv)
    print(f"report: {write_report(find_run(args.run), looks=not args.no_looks)}")
    return 0


def write_report(folder: Path, looks: bool = True) -> Path:
    """Write a run's report.html, whole or not at all; without `looks` no network is loaded."""
    record = read_run(folder)
    path = folder / "report.html"
    write_text(path, render(TEMPLATE, **page(record, looks)))
    return path


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
