"""Decisions carried out, and back again."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layout.decisions import Decision, read_decisions, write_decisions
from layout.tree import read_tree
from system.filenames import text_of
from tests.helpers import REPO
from tests.tools.audit.helpers import audited, findings_of, set_of
from tools.audit import __main__ as audit
from tools.audit import apply as carrying
from tools.audit import undo as back
from tools.audit.about import held
from tools.audit.apply import Places
from tools.audit.page import write_page
from utils import UserError, command_line

Wanted = dict[str, Decision]


def apply(*words: Any) -> str:
    return carrying.apply(*words).said


def undo(file: Path) -> str:
    return back.undo(file).said


def contents(folder: Path) -> dict[str, str]:
    """Each file, link and folder below, with what tells its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "/"
    return found


def three(each: str = "blue") -> Wanted:
    return {
        f"train/{each}/00.png": Decision("relabel", "green"),
        f"val/{each}/02.png": Decision("leave out"),
        "train/red/00.png": Decision("keep"),
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an audit, the working one."""
    monkeypatch.chdir(tmp_path)
    audited(Path(), set_of(Path("my pets")))
    return tmp_path


def decided(wanted: Wanted, file: str = "decisions.csv") -> Path:
    write_decisions(Path(file), wanted)
    return Path(file)


def test_there_and_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(here / "my pets")
    decided({**three(), "train/blue/01.png": Decision("relabel", "blue")})
    assert audit.main(["--apply", "decisions.csv", "--root", "my pets"]) == 0
    out = capsys.readouterr().out
    assert "1 moved to the folder of another class; 1 left out, in " in out and "2 as they" in out
    assert "take it back: python -m tools.audit --undo logs/audit-tiny/undo.csv" in out
    assert {k: v for k, v in contents(here / "my pets").items() if k not in before} == {
        "train/green/00-2.png": before["train/blue/00.png"]
    }
    away = contents(here / "my pets-quarantine")
    assert away["val/blue/02.png"] == before["val/blue/02.png"] and len(away) == 3
    assert len(list(read_tree(here / "my pets").every_picture())) == 8
    assert audit.main(["--undo", "logs/audit-tiny/undo.csv"]) == 0
    assert "2 are where they were" in capsys.readouterr().out
    assert contents(here / "my pets") == before
    assert not Path("my pets-quarantine").exists() and not Path("logs/audit-tiny/undo.csv").exists()


def test_the_folder_is_found_by_the_audit_that_lists_the_pictures(here: Path) -> None:
    listed = {"train/blue/00.png": Decision("leave out")}
    assert "1 left out" in apply(decided(listed, "elsewhere.csv"))
    with pytest.raises(UserError, match="no audit under logs/ lists all these pictures.*--root"):
        apply(decided({"train/red/00.png": Decision("leave out")}))
    audited(here / "other", set_of(here / "other" / "pets"), name="second")
    os.rename("other/logs/audit-second", "logs/audit-second")
    with pytest.raises(UserError, match="fits audits of several folders .*--root DIR"):
        apply(decided(listed))
    assert "1 left out" in apply(decided(listed), Path("other/pets"))


def test_applied_twice_is_a_sentence(here: Path) -> None:
    file = decided(three() | {"train/red/00.png": Decision("leave out")})
    apply(file, Path("my pets"))
    state = contents(here)
    with pytest.raises(UserError, match="moved already. Take that back: .*undo.csv"):
        apply(file, Path("my pets"))
    assert contents(here) == state


def test_one_that_is_gone_is_said_and_the_others_move(here: Path) -> None:
    Path("my pets/train/blue/00.png").unlink()
    said = apply(decided(three()), Path("my pets"))
    assert "1 left out" in said and "not moved: train/blue/00.png: it is not there any more" in said


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("train/blue/00.png,relabel,gren", "no class of .*did you mean 'green'"),
        ("train/blue/00.png,relable,green", "did you mean 'relabel'"),
        ("train/blue/00.png,relabel,", "relabel without a label"),
        ("../x.png,leave out,", "no path below the folder"),
        ("/etc/passwd,leave out,", "no path below the folder"),
        ("train/blue/00.png", "line 3 is cut off"),
        ("", "holds no decision"),
        ("a,keep,\na,leave out,", "decided twice"),
    ],
)
def test_what_can_t_be_meant_moves_nothing(here: Path, row: str, fault: str) -> None:
    text = f"path,decision,label\ntrain/red/00.png,leave out,\n{row}\n"
    Path("d.csv").write_text(text if row else "path,decision,label\n")
    before = contents(here)
    with pytest.raises(UserError, match=fault):
        apply(Path("d.csv"), Path("my pets"))
    assert contents(here) == before


def test_what_is_no_such_file(here: Path) -> None:
    Path("other.csv").write_text("a;b\n1;2\n")
    for file in ("other.csv", "none.csv", "my pets/train/red/00.png"):
        with pytest.raises(UserError, match="is no file of decisions"):
            apply(Path(file))
        with pytest.raises(UserError, match="no such file|lists no moved pictures"):
            undo(Path(file))


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("\ufeffpath,decision,label\na,keep,\n", encoding="utf-8")
    assert read_decisions(tmp_path / "d.csv") == {"a": Decision("keep")}


def test_the_quarantine_is_never_in_the_set(here: Path) -> None:
    with pytest.raises(UserError, match="would be read as a class"):
        apply(decided(three()), Path("my pets"), Path("my pets/away"))
    assert "in " + str(here / "away") in apply(decided(three()), Path("my pets"), Path("away"))


def test_links_are_moved_themselves_and_put_back_as_they_were(here: Path) -> None:
    os.rename("my pets/train/blue/00.png", "own.png")
    os.symlink("../../../own.png", "my pets/train/blue/00.png")
    before = contents(here / "my pets")
    apply(decided(three()), Path("my pets"))
    moved = Path("my pets/train/green/00-2.png")
    assert moved.is_symlink() and moved.read_bytes() == Path("own.png").read_bytes()
    undo(Path("logs/audit-tiny"))
    assert contents(here / "my pets") == before and Path("own.png").is_file()


def test_what_was_changed_since_stays_and_stays_listed(here: Path) -> None:
    before = contents(here / "my pets")
    apply(decided(three()), Path("my pets"))
    moved = Path("my pets/train/green/00-2.png")
    own = moved.read_bytes()
    moved.write_bytes(b"drawn over")
    Path("my pets/val/blue/02.png").write_bytes(b"another")
    said = undo(Path("logs/audit-tiny/undo.csv"))
    assert "2 can't be put back" in said and "was changed since" in said
    assert "another file lies in its old place" in said and moved.read_bytes() == b"drawn over"
    moved.write_bytes(own)
    Path("my pets/val/blue/02.png").unlink()
    assert undo(Path("logs/audit-tiny/undo.csv")) == "2 are where they were"
    assert contents(here / "my pets") == before and not Path("my pets-quarantine").exists()


def test_two_applied_are_undone_one_by_one(here: Path) -> None:
    before = contents(here / "my pets")
    apply(decided(three()), Path("my pets"))
    said = apply(decided(three("green") | three("red")), Path("my pets"))
    assert "undo-2.csv" in said
    undo(Path("logs/audit-tiny/undo-2.csv"))
    undo(Path("logs/audit-tiny/undo.csv"))
    assert contents(here / "my pets") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from tools.audit import apply
own, moved = apply.move, []
def dies(source, target):
    if len(moved) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    moved.append(own(source, target))
apply.move = dies
apply.apply(Path("decisions.csv"), Path("my pets"))
"""


@pytest.mark.slow
def test_killed_half_way_all_is_put_back(here: Path) -> None:
    before = contents(here / "my pets")
    decided(three())
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert contents(here / "my pets") != before
    with open("logs/audit-tiny/undo.csv", "a") as file:
        file.write("/cut/off,")
    undo(Path("logs/audit-tiny/undo.csv"))
    assert contents(here / "my pets") == before and not Path("my pets-quarantine").exists()


def test_killed_between_copy_and_removal_all_is_put_back(here: Path) -> None:
    """From one disk to another a file is copied first."""
    before = contents(here / "my pets")
    apply(decided(three()), Path("my pets"))
    moved = Path("my pets/train/green/00-2.png")
    Path("my pets/train/blue/00.png").write_bytes(moved.read_bytes())
    undo(Path("logs/audit-tiny/undo.csv"))
    assert contents(here / "my pets") == before


def test_ctrl_c_says_how_to_take_it_back(here: Path, monkeypatch: Any, capsys: Any) -> None:
    def stopped(source: str, target: str) -> None:
        if later:
            real(source, target)
            later.clear()
        else:
            raise KeyboardInterrupt

    real, later = carrying.move, [1]
    decided(three())
    monkeypatch.setattr("tools.audit.apply.move", stopped)
    words = ["--apply", "decisions.csv", "--root", "my pets"]
    assert command_line(lambda: audit.main(words)) == 130
    assert "take it back: python -m tools.audit --undo" in capsys.readouterr().err
    assert audit.main(["--undo", "logs/audit-tiny"]) == 0
    assert command_line(lambda: audit.main(words)) == 130
    assert "stopped; nothing was moved" in capsys.readouterr().err, "there is no list"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_closed_is_said(here: Path) -> None:
    Path("my pets/train/green").chmod(0o500)
    said = apply(decided(three()), Path("my pets"))
    Path("my pets/train/green").chmod(0o700)
    assert "not moved: train/blue/00.png: not permitted" in said and "1 left out" in said


def test_a_move_that_is_not_permitted_is_said(here: Path, monkeypatch: Any) -> None:
    def closed(source: str, target: str) -> None:
        raise PermissionError(13, "Permission denied", source)

    monkeypatch.setattr("tools.audit.apply.move", closed)
    before = contents(here / "my pets")
    said = apply(decided(three()), Path("my pets"))
    assert said.startswith("1 as they are\nnot moved: train/blue/00.png: not permitted")
    assert not Path("logs/audit-tiny/undo.csv").exists(), "there is nothing to take back"
    assert contents(here / "my pets") == before


def test_a_copy_whose_original_can_not_go_is_no_move(here: Path, monkeypatch: Any) -> None:
    """A read-only set, and a quarantine on another disk: copies stayed, and undo was offered."""

    def copied(source: str, target: str) -> None:
        shutil.copy2(source, target)
        raise OSError(30, "Read-only file system", source)

    monkeypatch.setattr("tools.audit.apply.move", copied)
    before = contents(here / "my pets")
    said = apply(decided(three()), Path("my pets"), here / "away" / "deep")
    assert "not moved: train/blue/00.png: Read-only file system" in said
    assert "take it back" not in said
    assert contents(here / "my pets") == before and not (here / "away").exists()


OWN = Path("logs/audit-tiny/decisions.csv")


def test_two_moves_of_one_picture_are_undone_as_one_decision(here: Path) -> None:
    """The second was of a place where it lies no more, and all of the file was refused."""
    write_decisions(OWN, {"train/red/00.png": Decision("relabel", "blue")})
    apply(OWN)
    (moved,) = (p for p in Path("my pets/train/blue").iterdir() if p.stem.startswith("00-"))
    there = f"train/blue/{moved.name}"
    write_decisions(OWN, {there: Decision("relabel", "green")})
    apply(OWN)
    for _ in range(2):
        assert audit.main(["--undo", "logs/audit-tiny"]) == 0
    assert read_decisions(OWN) == {"train/red/00.png": Decision("relabel", "green")}
    assert "1 moved" in apply(OWN)


def test_what_was_kept_where_it_had_come_goes_there_again(here: Path) -> None:
    """Undone, it said of its old class that it is the right one."""
    write_decisions(OWN, {"train/red/00.png": Decision("relabel", "blue")})
    apply(OWN)
    (moved,) = (p for p in Path("my pets/train/blue").iterdir() if p.stem.startswith("00-"))
    write_decisions(OWN, {f"train/blue/{moved.name}": Decision("keep")})
    assert audit.main(["--undo", "logs/audit-tiny"]) == 0
    assert read_decisions(OWN) == {"train/red/00.png": Decision("relabel", "blue")}


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["pets", "--quarantine", "q"], "--root and --quarantine go with --apply"),
        (["pets", "--root", "q"], "--root and --quarantine go with --apply"),
        (["--undo", "u", "--serve"], "--serve goes with a run"),
        (["pets", "--port", "80"], "--port goes with --serve"),
        (["pets", "--serve", "--port", "70000"], "--port 70000: from 1 to 65535"),
    ],
)
def test_flags_that_would_do_nothing(words: list[str], fault: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        audit.main(words)
    assert fault in capsys.readouterr().err


def test_what_is_carried_out_leaves_the_audit_s_decisions_and_undo_brings_it_back(
    here: Path,
) -> None:
    write_decisions(OWN, three())
    assert "1 left out" in apply(OWN)
    assert read_decisions(OWN) == {"train/red/00.png": Decision("keep")}
    applied = OWN.with_name("decisions-applied.csv")
    assert {**read_decisions(applied), **read_decisions(OWN)} == three()
    moved = Path("my pets/train/green/00-2.png")
    own = moved.read_bytes()
    moved.write_bytes(b"drawn over")
    assert audit.main(["--undo", "logs/audit-tiny"]) == 1
    assert [*read_decisions(applied)] == ["train/blue/00.png"]
    moved.write_bytes(own)
    assert audit.main(["--undo", "logs/audit-tiny"]) == 0
    assert read_decisions(OWN) == three() and not applied.exists()


def test_decisions_of_another_folder_by_the_same_name_are_not_carried_out(here: Path) -> None:
    write_decisions(OWN, {"train/black/07.png": Decision("leave out"), **three()})
    before = contents(here / "my pets")
    with pytest.raises(UserError, match="train/black/07.png: neither in .*were decided of another"):
        apply(OWN)
    assert contents(here / "my pets") == before
    other = findings_of(set_of(here / "other" / "my pets"))
    write_page(OWN.parent, other)
    assert not OWN.exists() and len(read_decisions(OWN.with_name("decisions-2.csv"))) == 4
    write_decisions(OWN, three())
    write_page(OWN.parent, other)
    assert read_decisions(OWN) == three(), "the same folder's stay"


def test_applied_twice_hits_no_other_picture(here: Path) -> None:
    gone, comes = "train/green/00.png", "train/blue/00.png"
    wanted = {gone: Decision("leave out"), comes: Decision("relabel", "green")}
    apply(decided(wanted), Path("my pets"))
    assert not Path("my pets", gone).exists() and Path("my pets/train/green/00-2.png").exists()
    with pytest.raises(UserError, match="moved already"):
        apply(decided(wanted), Path("my pets"))


def test_what_is_not_done_is_told_by_the_status(here: Path, capsys: Any) -> None:
    Path("my pets/train/blue/00.png").unlink()
    file = str(decided(three()))
    assert audit.main(["--apply", file, "--root", "my pets"]) == 1
    with pytest.raises(UserError, match=r"moved already\? Take that back: .*undo.csv"):
        apply(Path(file), Path("my pets"))  # one is kept, and there
    Path("my pets-quarantine/val/blue/02.png").write_bytes(b"drawn over")
    capsys.readouterr()
    assert audit.main(["--undo", "logs/audit-tiny"]) == 1
    assert capsys.readouterr().out.startswith("nothing was put back; 1 can't be put back")


def test_undo_of_a_folder_is_of_what_was_moved_last(here: Path) -> None:
    apply(decided(three()), Path("my pets"))
    apply(decided(three("green")), Path("my pets"))
    os.utime("logs/audit-tiny/undo-2.csv", (1, 1))
    undo(Path("logs/audit-tiny"))
    assert [p.name for p in Path("logs/audit-tiny").glob("undo*")] == ["undo-2.csv"]


def test_undo_of_a_folder_gets_there_where_the_clock_was_put_back(here: Path) -> None:
    """The older list has what was moved last: what a picture of the newer one waits for."""
    before, folder = contents(here / "my pets"), Path("logs/audit-tiny")
    apply(decided(three()), Path("my pets"))
    steps = back.read_steps(folder / "undo.csv")
    moved = next(step.target for step in steps if step.source and "quarantine" not in step.target)
    again = Path(moved).relative_to(here / "my pets").as_posix()
    apply(decided({again: Decision("leave out")}), Path("my pets"))
    os.utime(folder / "undo-2.csv", (1, 1))
    for _ in range(3):
        if any(folder.glob("undo*.csv")):
            undo(folder)
    assert contents(here / "my pets") == before and not list(folder.glob("undo*.csv"))


def test_a_stop_behind_the_moves_says_how_to_take_them_back(here: Path, monkeypatch: Any) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.audit.apply._take_out", stopped)
    with pytest.raises(KeyboardInterrupt, match="stopped; take it back: python -m tools.audit"):
        apply(decided(three()), Path("my pets"))


def test_undo_that_is_stopped_says_how_to_go_on(here: Path, monkeypatch: Any, capsys: Any) -> None:
    def stopped(source: str, target: str) -> None:
        raise KeyboardInterrupt

    before = contents(here / "my pets")
    apply(decided(three()), Path("my pets"))
    with monkeypatch.context() as patch:
        patch.setattr("tools.audit.undo.move", stopped)
        assert command_line(lambda: audit.main(["--undo", "logs/audit-tiny"])) == 130
    said = capsys.readouterr().err
    assert "put the others back, too: python -m tools.audit --undo logs/audit-tiny/undo.csv" in said
    undo(Path("logs/audit-tiny"))
    assert contents(here / "my pets") == before


def test_a_folder_that_is_served_is_left_alone(here: Path) -> None:
    with held(OWN.parent), pytest.raises(UserError, match="is served, or applied, by another"):
        apply(decided(three()), Path("my pets"))
    OWN.write_text("garbage\n")
    before = contents(here / "my pets")
    with pytest.raises(UserError, match="is no file of decisions .* move it away"):
        apply(decided(three()), Path("my pets"))
    assert contents(here / "my pets") == before and OWN.read_text() == "garbage\n"


def made(root: Path, *names: str) -> Places:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return Places(root)


@pytest.mark.parametrize(
    ("names", "path", "label", "wanted"),
    [
        (("cat/1.jpg", "dog/1.jpg"), "cat/1.jpg", "dog", "dog/1.jpg"),
        (("cat/old/1.jpg", "dog/1.jpg"), "cat/old/1.jpg", "dog", "dog/old/1.jpg"),
        (
            ("cat/train/1.jpg", "cat/val/1.jpg", "dog/train/1.jpg", "dog/val/1.jpg"),
            "cat/val/1.jpg", "dog", "dog/val/1.jpg",
        ),
        (
            ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg"),
            "val/cat/2.jpg", "dog", "val/dog/2.jpg",
        ),
        (("cat/cat/1.jpg", "cat/dog/1.jpg"), "cat/cat/1.jpg", "dog", "cat/dog/1.jpg"),
    ],
)  # fmt: skip
def test_a_class_has_its_place_in_any_layout(
    tmp_path: Path, names: tuple[str, ...], path: str, label: str, wanted: str
) -> None:
    places = made(tmp_path / "set", *names)
    assert places.of_class(places.found[path], label) == tmp_path / "set" / wanted


def test_names_that_are_no_text(tmp_path: Path) -> None:
    odd, line = os.fsdecode(b"caf\xe9"), "a\nb"
    root = tmp_path / "set"
    made(root, f"{odd}/{line}.jpg", f"{line}/1.jpg")
    before = contents(root)
    wanted = {text_of(f"{odd}/{line}.jpg"): Decision("relabel", text_of(line))}
    write_decisions(tmp_path / "d.csv", wanted)
    said = apply(tmp_path / "d.csv", root)
    assert (root / line / f"{line}.jpg").is_file() and r"no picture is left of caf\xe9" in said
    undo(tmp_path / "undo.csv")
    assert contents(root) == before
