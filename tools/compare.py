"""Runs side by side on one page: scores, settings that differ, curves, and whether it is chance.

    python -m tools.compare logs/A logs/B [...] [--out FILE]      also runs' names

Where two runs answered the same pictures, McNemar's exact test says whether the difference is more
than chance; else whether their intervals overlap. Runs on different data are not weighed against
each other. Says all that, and writes compare-A-B.html beside the first run.
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
from inspection.record import PARTS, Identity, Prediction, Record, read_run
from inspection.render import render, score, whole
from metrics import said_chance
from system.filenames import a_path
from utils import UserError, command_line, minutes, write_text
from utils import some as some_names

TEMPLATE = Path(__file__).with_name("compare.html")
OURS = b'<p class="eyebrow">Comparison</p>'  # in each page
MOST = 8  # runs: so many colours are told apart
SURE = 0.05  # what happens by chance less often is more than chance
SAME_DATA = 0.5  # of the smaller one's pictures: runs that share fewer are on different data
OPTIMISED = ("train.lr", "train.optim", "train.weight_decay")
FOUND = (*OPTIMISED, "train.head", "train.views")
NOT_SETTINGS = ("train.run_name", "train.log_path", "train.save_path")  # they differ in any case


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", help="folders of logs, or runs' names")
    parser.add_argument("--out", type=a_path, help="the page to write")
    args = parser.parse_args(argv)
    see_out(args.out)
    folders = list({folder.resolve(): folder for folder in map(find_run, args.runs)}.values())
    if not 2 <= len(folders) <= MOST:
        raise UserError(f"a comparison takes 2 to {MOST} different runs, and got {len(folders)}")
    records = [read_run(folder) for folder in folders]
    out = args.out or folders[0].parent / file_name([record.name for record in records])
    _, _, title, sentences = judged(records, titles(records))
    print("\n".join([f"{title}.", *sentences]))
    print(f"comparison: {write_comparison(records, out)}")
    return 0


def see_out(out: Path | None) -> None:
    """Raise UserError where the page can't be written, or would take another file's place."""
    if out is None:
        return
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name the page in it, such as {out}/compare.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a comparison is a page; let its name end in .html")
    if out.exists() and OURS not in out.read_bytes():
        raise UserError(f"--out {out} is there, and is no comparison; name another file")


def file_name(names: list[str]) -> str:
    more = [f"and-{len(names) - 3}-more"] if len(names) > 3 else []
    return "-".join(["compare", *names[:3], *more]) + ".html"


def write_comparison(records: list[Record], out: Path) -> Path:
    """Write the page, whole or not at all."""
    names = titles(records)
    rows = [score_of(record) for record in records]
    tone, sign, title, sentences = judged(records, names)
    scored = [record for record, row in zip(records, rows, strict=True) if row]
    best = max((row["value"] for row in rows if row), default=None)
    best = best if len(of_the_same_data(scored)) == 1 else None
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
        "optimiser": ("optim", str),
        "learning rate": ("lr", "{:.3g}".format),
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
    every = [came_to(record) for record in records]
    return [
        {"key": key, "cells": [one[key] for one in every]}
        for key in every[0]
        if key not in NOT_SETTINGS and any(one[key] != every[0][key] for one in every)
    ]


def came_to(record: Record) -> dict[str, str]:
    """The settings as text; of those that were left open what they came to, where it is known."""
    assert record.config is not None
    found = record.summary | (record.summary.get("chosen") or {})
    baseline = str(found.get("mode")).startswith("baseline")
    own = {"optim": "opt"}
    said = {}
    for key, value in record.config.flat().items():
        said[key] = "off" if value is None else str(value)
        known = found.get(key.removeprefix("train."))
        if value == "auto" and key in FOUND and known is not None:
            said[key] = f"{known:.3g} (auto)" if isinstance(known, float) else f"{known} (auto)"
        elif value == "auto" and found.get("head") == "layers" and key in OPTIMISED:
            said[key] = "not needed (auto)"  # that head is solved for
        if baseline and key in OPTIMISED:  # which it has of its own, or needs none
            name = key.removeprefix("train.")
            its = (found.get("settings") or {}).get(own.get(name, name))
            said[key] = "–" if its is None else f"{its} (its own)"
    return said


# ------------------------------------------------------------------------------ more than chance?


def judged(records: list[Record], names: list[str]) -> tuple[str, str, str, list[str]]:
    """The card at the top: the best run against each other one. Tone, sign, title, sentences."""
    found = [(score_of(r), name, r) for r, name in zip(records, names, strict=True)]
    there = [(row, name, record) for row, name, record in found if row]
    gone = [name for row, name, _ in found if not row]
    sentences = [f"{name} has no scores: it did not finish, or diverged." for name in gone]
    if len(there) < 2:
        return "open", "–", "Nothing to compare yet", sentences
    groups = of_the_same_data([record for _, _, record in there])
    sides = [[item for item in there if item[2] in group] for group in groups]
    weighed = [weigh(side) for side in sides if len(side) > 1]
    sentences = [s for _, _, _, some in weighed for s in some] + apart(sides) + sentences
    if not weighed:
        return "open", "–", "Different data: not weighed against each other", sentences
    if len(weighed) > 1:
        titles_ = "; ".join(title for _, _, title, _ in weighed)
        return "open", "–", f"Weighed on the same data only: {titles_}", sentences
    tone, sign, title, _ = weighed[0]
    return tone, sign, title if len(sides) == 1 else f"On the same data: {title}", sentences


def weigh(there: list[Any]) -> tuple[str, str, str, list[str]]:
    """The best of runs on the same data against each other one. Tone, sign, title, sentences."""
    most = max(item[0]["value"] for item in there)
    first = [item for item in there if item[0]["value"] == most]
    # Of several at the top one that is before the others on the pictures of both, if there is one.
    ahead = [
        sum(versus(one, other, len(there) - 1)[0] for other in first if other is not one)
        for one in first
    ]
    best = first[ahead.index(max(ahead))]
    others = [item for item in there if item is not best]
    against = [versus(best, other, len(others)) for other in others]
    sentences = [sentence for _, sentence in against]
    if len(others) > 1 and any("exact test" in sentence for sentence in sentences):
        sentences.append(
            f"p is multiplied by the number of comparisons, {len(others)} (Bonferroni): the best "
            "of many is easily best by luck."
        )
    if all(stands > 0 for stands, _ in against):
        level = any(other[0]["value"] == most for other in others)
        where = " on the pictures of both" if level else ""
        return "good", "✓", f"{best[1]} is better{where}", sentences
    if behind := [o[1] for o, (stands, _) in zip(others, against, strict=True) if stands < 0]:
        title = f"{best[1]} leads, but on the pictures of both {some_names(behind, 3)} is better"
        return "even", "≈", title, sentences
    if all(other[0]["part"] != best[0]["part"] for other in others):
        return "open", "–", "Measured on different parts: that can't be compared", sentences
    if any(stands > 0 for stands, _ in against):
        return "even", "≈", f"{best[1]} leads, not surely before all", sentences
    return "even", "≈", "No difference beyond chance", sentences


def of_the_same_data(records: list[Record]) -> list[list[Record]]:
    """The runs, those on the same data together: of the same classes, and of at least half of the
    smaller one's pictures in common, by content."""
    groups: list[list[Record]] = []
    for record in records:
        mine = set(record.identities.values())
        for group in groups:
            theirs = set(group[0].identities.values())
            classes = {label for label, *_ in mine} == {label for label, *_ in theirs}
            fewer = min(len(mine), len(theirs))
            if classes and fewer and len(mine & theirs) >= SAME_DATA * fewer:
                group.append(record)
                break
        else:
            groups.append([record])
    return groups


def apart(sides: list[list[Any]]) -> list[str]:
    """A sentence for each two groups of runs whose data differ: how much, and in which classes."""
    sentences = []
    for i, side in enumerate(sides):
        for other in sides[:i]:
            names = [" and ".join(name for _, name, _ in some) for some in (other, side)]
            one, two = (set(some[0][2].identities.values()) for some in (other, side))
            labels = [{label for label, *_ in pictures} for pictures in (one, two)]
            said = f"{len(one & two):,} of {len(one):,} and {len(two):,} pictures are the same"
            for name, only in zip(
                names, (labels[0] - labels[1], labels[1] - labels[0]), strict=True
            ):
                said += f"; only {name} has {some_names(sorted(only), 4)}" if only else ""
            verb = "is" if len(other) == 1 else "are"
            sentences.append(
                f"{names[0]} {verb} not weighed against {names[1]}, as their data differ: {said}."
            )
    return sentences


def versus(first: Any, second: Any, comparisons: int) -> tuple[int, str]:
    """1 where the first run is better than the second by more than chance, -1 where on the pictures
    of both it is worse by more than that, else 0; and the sentence."""
    (one, name, record), (other, rival, rival_record) = first, second
    points = 100 * (one["value"] - other["value"])
    lead = f"{name} is {points:.1f} points ahead of {rival} ({score(one['value'])}, "
    lead += f"{score(other['value'])})"
    if not points:
        lead = f"{name} and {rival} reach the same, {score(one['value'])}"
    if one["part"] != other["part"]:
        return 0, f"{lead}, but on another part: that can't be compared."
    if pair := same_pictures(record, rival_record):
        n, only_first, only_second, p = mcnemar(*pair)
        p = min(1.0, p * comparisons)
        ahead = only_first - only_second
        stands = 0 if p >= SURE else 1 if ahead > 0 else -1
        says = ("; it may be chance", "; more than chance", ", but by other pictures")[stands]
        both = pair[0].keys() & pair[1].keys()
        shares = [score(sum(side[key].right for key in both) / n) for side in pair]
        others = n < max(map(len, pair))  # what is said before is of other pictures, too
        here = f" ({' and '.join(shares)} of them right)" if others else ""
        return stands, (
            f"{lead}{says if points else ''}. Of the {n:,} pictures that both were asked{here}, "
            f"{name} alone got {only_first} right, {rival} alone {only_second} (McNemar's exact "
            f"test, {said_chance(p)})."
        )
    if not (one["interval"] and other["interval"]):
        return 0, f"{lead}; without intervals nothing can be said of chance."
    sure = one["interval"][0] > other["interval"][1]
    says = ": their intervals overlap, so it may be chance"
    if sure:
        says = ": their intervals don't overlap, so more than chance"
    why = "They were not asked the same pictures"
    if silent := [row[1] for row in (first, second) if not row[2].predictions]:
        why = f"{' and '.join(silent)} left no answers to single pictures (predictions.csv)"
    return int(sure), f"{lead}{says if points else ''}. {why}."


def same_pictures(
    first: Record, second: Record
) -> tuple[dict[Identity, Prediction], dict[Identity, Prediction]] | None:
    """The answers of two runs by picture, where at least half of those that either was asked were
    the same."""
    one, other = ({r.identities[p.path]: p for p in r.predictions} for r in (first, second))
    both = one.keys() & other.keys()
    if first.part != second.part or not both:
        return None
    return (one, other) if len(both) >= SAME_DATA * min(len(one), len(other)) else None


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
