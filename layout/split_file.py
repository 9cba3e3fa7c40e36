"""split.csv: which image is in which part, written by a run and used again by another."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filenames import same_name, text_of
from images import Sample
from utils import UserError, some

PARTS = ("train", "val", "test")
COLUMNS = ("path", "label", "part", "sha256")


@dataclass(frozen=True)
class Asked:
    """The split that a run is to use: its file, for which folder and classes; whether the file may
    have other classes, too, and whether images that it doesn't name are trained on; the paths that
    `train.labels` has relabelled or left out since, maybe."""

    file: Path
    root: Path
    classes: tuple[str, ...]
    has_others: bool = False
    takes_new: bool = False
    decided: Collection[str] = ()


def text_below(root: Path, path: Path) -> str:
    """A path below the folder, as the files of a run name it; `filenames.name_of` leads back."""
    return text_of(path.relative_to(root).as_posix())


def apply_split(
    asked: Asked, samples: list[Sample], unused: list[tuple[Path, str]]
) -> list[Sample]:
    """The parts that a split.csv says; every file that it names must be there, unchanged. Where new
    images are taken, those of a class that it doesn't name keep their own part."""
    root, file, classes = asked.root, asked.file, asked.classes
    here = {text_below(root, s.path): s for s in samples}
    alike = {same_name(path): path for path in here}  # another system may spell its letters in NFD
    rows = {
        path if path in here else alike.get(same_name(path), path): row
        for path, row in read_split(file).items()
        if row["label"] in classes or not asked.has_others
    }
    decided = {same_name(path) for path in asked.decided}
    rows = {p: row for p, row in rows.items() if p in here or same_name(p) not in decided}
    gone = [p for p in rows if p not in here]
    if asked.takes_new:  # a folder that has grown may have lost some, too
        unused += [(root / p, f"{file} has it, and it is gone") for p in gone]
        rows = {path: row for path, row in rows.items() if path in here}
        gone = []
    wrong = [f"{p} (not there)" for p in gone]
    wrong += [f"{p} (changed)" for p in rows.keys() & here if rows[p]["sha256"] != here[p].sha256]
    for path in rows.keys() & here:
        if rows[path]["label"] != classes[here[path].label] and same_name(path) not in decided:
            wrong.append(f"{path} (labelled {rows[path]['label']})")
    wrong += [f"{p} (part '{row['part']}')" for p, row in rows.items() if row["part"] not in PARTS]
    if wrong:
        raise UserError(
            f"{root} is not the folder that {file} was made of: {some(sorted(wrong), 10)}; "
            "leave train.split out for a new split"
        )
    used = [replace(s, part=rows[p]["part"]) for p, s in here.items() if p in rows]
    held = {s.sha256: s.path for s in used if s.part != "train"}
    split = {row["label"] for row in rows.values()}
    for path, sample in here.items():
        if path in rows:
            continue
        if asked.takes_new and classes[sample.label] not in split:
            used.append(sample)  # a class of which nothing is held out yet
        elif asked.takes_new and sample.sha256 in held:
            same = text_below(root, held[sample.sha256])
            unused.append((sample.path, f"new, but the same file as {same}"))
        elif asked.takes_new and sample.part in ("", "train"):
            used.append(replace(sample, part="train"))
        else:
            unused.append((sample.path, f"not in {file}"))
    return used


def read_split(file: Path) -> dict[str, dict[str, str]]:
    """The rows of a split.csv by their path."""
    rows = read_table(file, COLUMNS, "split file")
    return {row["path"]: {**row, "label": same_name(row["label"])} for row in rows}


def read_table(file: Path, columns: Sequence[str] | None, kind: str) -> list[dict[str, str]]:
    """The rows of a CSV by these columns (None: by those that it has), but for empty ones;
    UserError where it is no such table.

    Some spreadsheets part the columns by semicolons, and write a mark first.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            text = lines.read()
        head = text.partition("\n")[0]
        table = csv.DictReader(io.StringIO(text, ""), delimiter=";" if ";" in head else ",")
        columns = (table.fieldnames or ()) if columns is None else columns
        lacking = [name for name in columns if name not in (table.fieldnames or ())]
        if lacking:
            raise ValueError(f"it has no column {', '.join(lacking)}")
        rows = [{name: row[name] for name in columns} for row in table if any(row.values())]
        if any(None in row.values() for row in rows):
            raise ValueError("a row is cut off")
        return rows
    except UnicodeDecodeError:
        why = "it is no text in UTF-8; save it as CSV (UTF-8)"
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, csv.Error) as error:
        why = str(error)
    named = f" (columns {', '.join(columns)})" if columns else ""
    raise UserError(f"{file} is no {kind}{named}: {why}")
