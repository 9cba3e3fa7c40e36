"""A made-up audit of a few pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from audit.findings import AUDIT, Findings, Suspect, write_audit
from tests.helpers import COLOURS, picture
from tools.audit.page import write_page

PARTS = ("train", "val")


def set_of(root: Path, names: dict[str, str] | None = None, each: int = 3) -> Path:
    """A folder with train and val, some pictures of each class; `names` by their colour."""
    for colour, name in (names or {c: c for c in COLOURS}).items():
        for i in range(each):
            part = PARTS[i == each - 1]
            (root / part / name).mkdir(parents=True, exist_ok=True)
            wide = (60, 40) if i % 2 else (40, 50)
            picture(colour, i, wide).save(root / part / name / f"{i:02}.png")
    return root


def findings_of(root: Path, name: str = "tiny", **changes: Any) -> Findings:
    """What an audit of `set_of` might have found: a wrong label, two copies, one of another look,
    one that can't be read."""
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    classes = tuple(sorted({path.split("/")[1] for path in paths}))
    labels = tuple(classes.index(path.split("/")[1]) for path in paths)
    n, (a, b) = len(paths), classes[:2]
    of = {c: [p for p, k in zip(paths, labels, strict=True) if classes[k] == c] for c in classes}
    rng = np.random.default_rng(0)
    wrong = f"seems to be {b}: it says so with probability 0.97, and of {a} it says 0.01"
    suspects = [
        Suspect(of[a][0], "label", a, b, 0.97, None, "train", wrong),
        Suspect(of[b][0], "label", b, a, 0.71, None, "train", "seems to be another"),
        Suspect(of[a][1], "leak", a, None, 1.0, 0, "train", "the same file"),
        Suspect(of[a][2], "leak", a, None, 1.0, 0, "val", "the same file"),
        Suspect(of[b][2], "outlier", b, None, 0.99, None, "val", "unlike all others"),
        Suspect(f"train/{a}/broken.png", "unreadable", a, None, 1.0, None, "train", "cut off"),
    ]
    values: dict[str, Any] = {
        "name": name,
        "root": root,
        "classes": classes,
        "paths": tuple(paths),
        "labels": labels,
        "parts": tuple(path.split("/")[0] for path in paths),
        "suspects": tuple(suspects),
        "neighbours": [[j % n for j in range(i + 1, i + 6)] for i in range(n)],
        "places": [(float(x), float(y)) for x, y in rng.normal(size=(n, 2))],
        "said": (f"2 of {n} pictures have a label that may be wrong.", "1 picture is a leak."),
        "noise": [
            [0.02 * (i != j) * (i + j < 3) for j in range(len(classes))]
            for i in range(len(classes))
        ],
        "sizes": [
            {"images": k, "accuracy": r, "low": r - 0.05, "high": min(1, r + 0.04), "measured": m}
            for k, r, m in (
                (75, 0.8, True),
                (150, 0.88, True),
                (300, 0.92, True),
                (600, 0.94, False),
            )
        ],
    }
    return Findings(**{**values, **changes})


def audited(home: Path, root: Path, **changes: Any) -> Path:
    """An audit's folder under home/logs, with all that it leaves."""
    findings = findings_of(root, **changes)
    folder = home / "logs" / f"audit-{findings.name}"
    folder.mkdir(parents=True)
    write_audit(folder / AUDIT, findings.suspects)
    write_page(folder, findings)
    return folder
