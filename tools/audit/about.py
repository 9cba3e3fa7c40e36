"""audit.json: what an audit was of, so that what is decided by its page can be carried out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from audit.findings import AUDIT
from config import ConfigError, TrainConfig
from config_file import load_config
from filing.csv_files import read_csv
from filing.moving import free_name
from layout.decisions import KEEP, Decision, read_decisions
from system.filenames import name_of, text_of
from utils import UserError, log, some, write_json

ABOUT, PAGE, DECISIONS = "audit.json", "audit.html", "decisions.csv"
PREFIX = "audit-"  # of its folder's name, under logs


@dataclass(frozen=True)
class About:
    """An audit's name, its folder of pictures (from the root on), their classes; the run that was
    asked, where there is one, else the config's file; and the command line's overrides of it."""

    name: str
    root: Path
    classes: tuple[str, ...]
    run: Path | None = None
    config: Path | None = None
    overrides: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What tells it from others, and from itself with other classes."""
        return hashlib.sha256(repr(self._key()).encode()).hexdigest()

    def _key(self) -> tuple[str, str, tuple[str, ...]]:
        return self.name, str(self.root.absolute()), self.classes


def write_about(folder: Path, about: About) -> None:
    """Write audit.json; what was decided by the page of another audit is set aside."""
    _set_aside(folder, about)

    def written(value: Any) -> Any:
        return text_of(str(value.absolute())) if isinstance(value, Path) else value

    write_json(folder / ABOUT, {key: written(value) for key, value in asdict(about).items()})


def _set_aside(folder: Path, about: About) -> None:
    """Rename decisions.csv where the folder was another audit's: its paths may be here, too."""
    file = folder / DECISIONS
    if not file.exists() or not (folder / ABOUT).exists():
        return
    with contextlib.suppress(UserError):
        if read_about(folder).id == about.id:
            return
    with held(folder):
        aside = free_name(file)
        file.rename(aside)
    log.info("%s was decided of another folder, or other classes: it is %s now", file, aside)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep an audit's decisions for one program alone. Raises UserError where another has them."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"{folder} is served, or applied, by another program: use that one, or end it (Ctrl-C)"
        ) from None


def read_own(folder: Path) -> dict[str, Decision]:
    """The decisions that lie in an audit's folder, where there are some. Raises UserError for a
    file that is none, which must not be written over."""
    file = folder / DECISIONS
    if not file.exists():
        return {}
    try:
        return read_decisions(file)
    except UserError as error:
        raise UserError(f"{error}; put it right, or move it away first") from None


def read_about(folder: Path) -> About:
    """What an audit's folder says of it. Raises UserError where it says nothing."""
    file = folder / ABOUT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        run, config = (Path(name_of(found[k])) if found[k] else None for k in ("run", "config"))
        lists = tuple(found["classes"]), run, config, tuple(found["overrides"])
        return About(str(found["name"]), Path(name_of(found["root"])), *lists)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is no audit's folder ({ABOUT}: {error}); make it with "
            "`python -m tools.audit RUN`"
        ) from None


def audits(logs: Path) -> list[Path]:
    """The folders of audits under a folder of logs, the newest first."""
    found = [file for file in logs.glob(f"{PREFIX}*/{ABOUT}")]
    return [file.parent for file in sorted(found, key=lambda f: -f.stat().st_mtime)]


def audit_of(decisions: Path, paths: Collection[str], root: Path | None = None) -> Path | None:
    """The folder of the audit that decisions are of: that which they lie in, else the newest under
    logs/ of the folder `root`; where that is not given, the one that lists all their pictures.

    None where there is none. Raises UserError where there are several, of different pictures.
    """
    if (decisions.parent / ABOUT).is_file():
        return decisions.parent
    fitting = []
    for folder in audits(Path("logs")):
        try:
            listed = {row["path"] for row in read_csv(folder / AUDIT, ["path"], "audit")}
            there = read_about(folder).root
        except UserError:
            continue
        if there.resolve() == root.resolve() if root else {*paths} <= listed:
            fitting.append((folder, there.resolve()))
    roots = sorted({str(there) for _, there in fitting})
    if len(roots) > 1:
        raise UserError(
            f"{decisions} fits audits of several folders ({some(roots)}): say which one, --root DIR"
        )
    return fitting[0][0] if fitting else None


# ------------------------------------------------------------------------------- training with it

LOOKS = (
    "train.checkpoint="  # of a run: the weights that look at its pictures, not those it began with
)


def settings(about: About) -> TrainConfig:
    """What an audit's pictures were, or would be, trained with. Raises UserError where it is not
    known."""
    if about.run is None and about.config is None and not about.overrides:
        raise UserError("this audit names no settings to train with; audit a run, or a config")
    file = about.config or "config.yaml" if about.run is None else about.run / "config.yaml"
    return load_config(file, own_words(about))[0].train


def own_words(about: About) -> list[str]:
    """The overrides that a training takes, too."""
    return [w for w in about.overrides if about.run is None or not w.startswith(LOOKS)]


def new_words(labels: str | Path) -> list[str]:
    """What a training is told of an audit: its decisions, and to skip what the audit skipped."""
    return [f"train.labels={labels}", "train.on_bad_image=skip"]


def earlier(about: About) -> dict[str, Decision]:
    """What was decided before: the train.labels that the pictures were audited with, but for what
    was carried out since, and is not there any more."""
    try:
        labels = settings(about).labels
    except (UserError, ConfigError, OSError):
        return {}
    if not labels or not Path(labels).is_file():
        return {}
    return {p: d for p, d in read_decisions(Path(labels)).items() if is_there(about.root, p)}


def is_there(root: Path, path: str) -> bool:
    """Whether a picture that is named so is in its folder."""
    name = name_of(path)
    spelled = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return any((root / one).exists() for one in spelled)


def merged(
    before: Mapping[str, Decision], decisions: Mapping[str, Decision]
) -> dict[str, Decision]:
    """Decisions onto those of before: a `keep` keeps what the audit showed, which these made."""
    new = {p: d for p, d in decisions.items() if d.what != KEEP or p not in before}
    return {**before, **new}
