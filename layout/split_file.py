"""split.csv: which image is in which part, written by a run and used again by another."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from filing.csv_files import cells_of, read_csv
from images import Sample
from layout.parts import Layout
from system.filenames import name_of, same_name, shown, text_of
from system.text_files import NoText
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


def leave_new(layout: Layout, root: Path, file: Path) -> None:
    """Take the candidates that a run's own split.csv doesn't name, which are newer than the run, to
    the unused ones: they are not read, and what class they would be says nothing."""
    named = {same_name(path) for path in read_split(file)}
    is_new = [same_name(text_below(root, item.path)) not in named for item in layout.found]
    if all(is_new):  # it is another folder, which is said later
        return
    pairs = list(zip(layout.found, is_new, strict=True))
    layout.unused += [(item.path, f"not in {file}") for item, new in pairs if new]
    layout.found = [item for item, new in pairs if not new]
    layout.names = {item.class_name for item in layout.found}


def apply_split(
    asked: Asked, samples: list[Sample], unused: list[tuple[Path, str]], notes: list[str]
) -> tuple[list[Sample], set[Path]]:
    """The samples with the parts that a split.csv says, and those of them that it doesn't name;
    every file that it names must be there, unchanged.

    Where new images are taken, some may be gone; what is the same file by another name is in the
    part that it was in, and of what is new the part is still to be found: it is "", or of a class
    that the split doesn't name the folder's own.
    """
    root, file, classes = asked.root, asked.file, asked.classes
    here = {text_below(root, s.path): s for s in samples}
    alike = {same_name(path): path for path in here}  # another system may spell its letters in NFD
    every = {
        path if path in here else alike.get(same_name(path), path): row
        for path, row in read_split(file).items()
    }
    rows = {p: r for p, r in every.items() if r["label"] in classes or not asked.has_others}
    decided = {same_name(path) for path in asked.decided}
    rows = {p: row for p, row in rows.items() if p in here or same_name(p) not in decided}
    gone = [p for p in rows if p not in here]
    if asked.takes_new:  # a folder that has grown may have lost some, too
        changed = {p for p in rows.keys() & here if rows[p]["sha256"] != here[p].sha256}
        loose = {s.sha256 for p, s in here.items() if p not in rows or p in changed}
        # Their names are other pictures' by now: numbered anew, say.
        known = {row["sha256"] for row in rows.values()}
        passed_on = [p for p in changed if rows[p]["sha256"] in loose or here[p].sha256 in known]
        gone += passed_on
        rows = {p: row for p, row in rows.items() if p not in passed_on}
        gone = _take_moved(asked, every, rows, gone, here, notes)
        unused += [(root / p, f"{file} has it, and it is gone") for p in gone if p not in here]
        if named := [p for p in gone if p in here]:
            what = some(named, 3)
            notes.append(
                f"{len(named)} files of {file} are gone, and others have their names: {what}"
            )
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
            "put them back, or begin a new run, without train.split and train.from_run"
        )
    return _used(asked, here, {p: row["part"] for p, row in rows.items()}, unused)


def _used(
    asked: Asked,
    here: dict[str, Sample],
    parts: dict[str, str],
    unused: list[tuple[Path, str]],
) -> tuple[list[Sample], set[Path]]:
    """What is used of the pictures that are here, those that a split names in its `parts`, and the
    paths of those whose part is still to be found."""
    root, known = asked.root, classes_of(asked.file)
    held = {here[p].sha256: here[p].path for p, part in parts.items() if part != "train"}
    learned = {here[p].sha256 for p, part in parts.items() if part == "train"}
    unnamed: set[Path] = set()
    used = []  # in the folder's order: so does whoever goes on with the new split.csv read them
    for path, sample in here.items():
        # A class of which nothing is held out yet may have parts of its own.
        fresh = asked.classes[sample.label] not in known
        takes = asked.takes_new and (fresh or sample.part in ("", "train"))
        if path in parts:
            used.append(replace(sample, part=parts[path]))
        elif asked.takes_new and sample.sha256 in held:
            same = text_below(root, held[sample.sha256])
            unused.append((sample.path, f"new, but the same file as {same}"))
        elif takes and sample.sha256 in learned:  # whatever its group is: that is learned
            used.append(replace(sample, part="train"))
        elif takes:
            used.append(sample if fresh else replace(sample, part=""))
            unnamed.add(sample.path)
        else:
            unused.append((sample.path, f"not in {asked.file}"))
    return used, unnamed


def _take_moved(
    asked: Asked,
    every: dict[str, dict[str, str]],
    rows: dict[str, dict[str, str]],
    gone: list[str],
    here: dict[str, Sample],
    notes: list[str],
) -> list[str]:
    """Give the files that have another name by now the rows that they had, among `every`, those of
    classes that are left out too; which paths are gone all the same."""
    left = [p for p in every.keys() - rows.keys() if not (asked.root / name_of(p)).exists()]
    moved = _moved(every, [*gone, *left], here)
    if moved:
        such = some([f"{old} is {new}" for new, old in moved.items()], 3)
        notes.append(f"{len(moved)} files by another name, each in its part: {such}")
    for new, old in moved.items():
        rows[new] = every[old] | {"label": asked.classes[here[new].label]}
    return [p for p in gone if p not in moved.values()]


def _moved(
    rows: dict[str, dict[str, str]], gone: list[str], here: dict[str, Sample]
) -> dict[str, str]:
    """The earlier name of each new file that is the same as one that is gone: of several the one
    that is held out longest."""
    rank = {part: i for i, part in enumerate(PARTS)}
    lost: dict[str, str] = {}
    for path in sorted(gone, key=lambda path: rank.get(rows[path]["part"], 0)):
        lost[rows[path]["sha256"]] = path
    new = {p: sample.sha256 for p, sample in here.items() if p not in rows or p in gone}
    return {path: lost[digest] for path, digest in new.items() if digest in lost}


def classes_of(file: Path) -> set[str]:
    """The classes that a split.csv names."""
    return {row["label"] for row in read_split(file).values()}


def first_change(file: Path, rows: Iterable[dict[str, str]]) -> str | None:
    """The first row of a split.csv that is not the one that stands there now, or the other way
    round; None where both are the same. Neither is held in memory."""
    try:
        found = (cells for _, cells in cells_of(file))
        if next(found, None) != [*COLUMNS]:
            raise NoText("it has other columns")
        now = ([shown(row[name]) for name in COLUMNS] for row in rows)
        for old, new in zip_longest(found, now):
            if old != new:
                return f"{old[0]} is not there" if new is None else f"{new[0]} is new or changed"
    except (NoText, OSError) as error:
        raise UserError(f"{file} is no split file: {error}") from None
    return None


def read_split(file: Path) -> dict[str, dict[str, str]]:
    """The rows of a split.csv by their path."""
    rows: dict[str, dict[str, str]] = {}
    for row in read_csv(file, COLUMNS, "split file"):
        row["label"] = same_name(row["label"])
        if rows.setdefault(row["path"], row) is not row:
            raise UserError(f"{file} has {row['path']} twice; a picture is in one part")
    return rows
