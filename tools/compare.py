"""Runs side by side on one page: scores, settings that differ, curves, and whether it is chance.

    python -m tools.compare logs/A logs/B [...] [--out FILE]      also runs' names

Where two runs answered the same pictures, McNemar's exact test says whether the difference is more
than chance; else whether their intervals overlap. Writes compare-A-B.html beside the first run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config import ConfigError
from engine.run import find_run
from inspection.charts import curves_together
from inspection.numbers import mcnemar
from inspection.record import PARTS, Prediction, Record, read_run
from inspection.render import render, score, whole
from utils import UserError, command_line, minutes, write_text

TEMPLATE = Path(__file__).with_name("compare.html")
MOST = 8  # runs: so many colours are told apart
SURE = 0.05  # what happens by chance less often is more than chance
NOT_SETTINGS = ("train.run_name", "train.log_path", "train.save_path")  # they differ in any case


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", help="folders of logs, or runs' names")
    parser.add_argument("--out", type=Path, help="the page to write")
    args = parser.parse_args(argv)
    folders = list({folder.resolve(): folder for folder in map(find_run, args.runs)}.values())
    if not 2 <= len(folders) <= MOST:
        raise UserError(f"a comparison takes 2 to {MOST} different runs, and got {len(folders)}")
    records = [read_run(folder) for folder in folders]
    out = args.out or folders[0].parent / file_name([record.name for record in records])
    print(f"comparison: {write_comparison(records, out)}")
    return 0


def file_name(names: list[str]) -> str:
    more = [f"and-{len(names) - 3}-more"] if len(names) > 3 else []
    return "-".join(["compare", *names[:3], *more]) + ".html"


def write_comparison(records: list[Record], out: Path) -> Path:
    """Write the page, whole or not at all."""
    names = titles(records)
    rows = [score_of(record) for record in records]
    tone, sign, title, sentences = judged(records, names)
    best = max((row["value"] for row in rows if row), default=None)
    measured = [
        {**row, "name": f"{name} ({row['part']})", "ours": row["value"] == best}
        for name, row in zip(names, rows, strict=True)
        if row
    ]
    unread = [n for n, record in zip(names, records, strict=True) if record.config is None]
    values = {
        "runs": [{"name": name} for name in names],
        **{"tone": tone, "sign": sign, "title": title, "sentences": sentences},
        "measured": measured,
        **table(records, names),
        "differences": [] if unread else differences(records),
        "no_differences": f"The settings of {', '.join(unread)} can't be read."
        if unread
        else "Nothing: their settings are the same.",
        "curves": curves_together(
            {name: record.metrics for name, record in zip(names, records, strict=True)}
        ),
    }
    contents = [("scores", "Scores"), ("differences", "Settings"), ("curves", "Curves")]
    values["contents"] = contents if values["curves"] else contents[:2]
    write_text(out, render(TEMPLATE, **values))
    return out


def titles(records: list[Record]) -> list[str]:
    """The runs' names; with their folders where two are called the same."""
    names = [record.name for record in records]
    if len(set(names)) == len(names):
        return names
    return [str(record.folder) for record in records]


# ----------------------------------------------------------------------------------------- scores


def score_of(record: Record) -> dict[str, Any] | None:
    """The accuracy that a run reports, its interval and part; None where it has none."""
    summary = record.summary
    part = record.scored
    if part is None:
        return None
    return {
        "value": summary[f"{part}_accuracy"],
        "interval": summary.get(f"{part}_interval"),
        "part": PARTS[part],
    }


def table(records: list[Record], names: list[str]) -> dict[str, Any]:
    """Every score of every run, as text; columns that no run has are left out."""
    every: dict[str, tuple[str, Callable[[Any], str]]] = {
        "test accuracy": ("test_accuracy", score),
        "test balanced": ("test_balanced_accuracy", score),
        "test loss": ("test_loss", score),
        "val accuracy": ("val_accuracy", score),
        "val balanced": ("val_balanced_accuracy", score),
        "val loss": ("val_loss", score),
        "train accuracy": ("train_accuracy", score),
        "epochs": ("epochs", whole),
        "training": ("seconds", minutes),
        "verdict": ("verdict", str),
    }
    columns = {
        title: (key, said)
        for title, (key, said) in every.items()
        if any(record.summary.get(key) is not None for record in records)
    }
    rows = []
    for record, name in zip(records, names, strict=True):
        found = [(record.summary.get(key), said) for key, said in columns.values()]
        cells = ["–" if value is None else said(value) for value, said in found]
        rows.append({"name": name, "cells": cells})
    return {"columns": list(columns), "table": rows}


def differences(records: list[Record]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs, as config.yaml names them."""
    every = []
    for record in records:
        assert record.config is not None
        every.append(record.config.flat())
    return [
        {"key": key, "cells": ["off" if one[key] is None else str(one[key]) for one in every]}
        for key in every[0]
        if key not in NOT_SETTINGS and any(one[key] != every[0][key] for one in every)
    ]


# ------------------------------------------------------------------------------ more than chance?


def judged(records: list[Record], names: list[str]) -> tuple[str, str, str, list[str]]:
    """The card at the top: the best run against each other one. Tone, sign, title, sentences."""
    found = [(score_of(r), name, r) for r, name in zip(records, names, strict=True)]
    there = [(row, name, record) for row, name, record in found if row]
    gone = [name for row, name, _ in found if not row]
    sentences = [f"{name} has no scores: it did not finish, or diverged." for name in gone]
    if len(there) < 2:
        return "open", "–", "Nothing to compare yet", sentences
    best = max(there, key=lambda item: item[0]["value"])
    others = [item for item in there if item is not best]
    against = [versus(best, other, len(others)) for other in others]
    sentences = [sentence for _, sentence in against] + sentences
    if len(others) > 1:
        sentences.append(
            f"p is multiplied by the number of comparisons, {len(others)} (Bonferroni): the best "
            "of many is easily best by luck."
        )
    if all(sure for sure, _ in against):
        return "good", "✓", f"{best[1]} is better", sentences
    if any(sure for sure, _ in against):
        return "even", "≈", f"{best[1]} leads, not surely before all", sentences
    return "even", "≈", "No difference beyond chance", sentences


def versus(first: Any, second: Any, comparisons: int) -> tuple[bool, str]:
    """Whether the first run is better than the second by more than chance, and the sentence."""
    (one, name, record), (other, rival, rival_record) = first, second
    points = 100 * (one["value"] - other["value"])
    lead = f"{name} is {points:.1f} points ahead of {rival} ({score(one['value'])}, "
    lead += f"{score(other['value'])})"
    if one["part"] != other["part"]:
        return False, f"{lead}, but on another part: that can't be compared."
    if pair := same_pictures(record, rival_record):
        n, only_first, only_second, p = mcnemar(*pair)
        p = min(1.0, p * comparisons)
        sure = p < SURE and only_first > only_second
        says = "more than chance" if sure else "it may be chance"
        return sure, (
            f"{lead}; {says}. Of the {n:,} pictures that both were asked, {name} alone got "
            f"{only_first} right, {rival} alone {only_second} (McNemar's exact test, "
            f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})."
        )
    if not (one["interval"] and other["interval"]):
        return False, f"{lead}; without intervals nothing can be said of chance."
    sure = one["interval"][0] > other["interval"][1]
    says = "their intervals don't overlap" if sure else "their intervals overlap"
    more = "more than chance" if sure else "it may be chance"
    return sure, f"{lead}: {says}, so {more}. They were not asked the same pictures."


def same_pictures(
    first: Record, second: Record
) -> tuple[dict[str, Prediction], dict[str, Prediction]] | None:
    """The answers of two runs by picture, where they were asked the same ones: of one folder
    those that both held out, else all of them or none. None without any."""
    one, other = ({f"{p.label}\n{p.path}": p for p in r.predictions} for r in (first, second))
    if first.part != second.part or not one.keys() & other.keys():
        return None
    if one.keys() == other.keys():
        return one, other
    roots = [Path(r.config.train.base_dir).resolve() if r.config else r for r in (first, second)]
    return (one, other) if roots[0] == roots[1] else None


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
