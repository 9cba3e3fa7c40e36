"""tools.predict: what is asked about, the file that goes on after any stop, sorting and its way
back, scores."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from answers import Row, row_of
from classifier import Answer, Classifier, Unreadable, find_checkpoint
from config import ConfigError
from engine.run import find_run
from system.filenames import name_of, text_of
from tests.helpers import COLOURS, REPO, pictures_of, random_weights, small_run
from tools.predict import __main__ as predict
from tools.predict import sorting
from tools.predict.pictures import find_pictures
from tools.predict.rows import AnswersFile
from tools.predict.said import Table
from tools.predict.scoring import foreign, scored
from tools.predict.sorting import folder_name, sort_into, steps, take_back
from utils import UserError, command_line

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled `images`, and a run called tiny."""
    folder = tmp_path_factory.mktemp("home")
    small_run(folder, pictures_of(folder / "images", 8), "tiny", head="both")
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder of its own, with the run; its pictures are in `pictures`, one a colour."""
    monkeypatch.chdir(tmp_path)
    for name in ("logs", "weights", "images"):
        os.symlink(home / name, tmp_path / name)
    (tmp_path / "pictures").mkdir()
    for name in COLOURS:
        shutil.copy(home / "images" / name / "03.png", tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def run(*arguments: str) -> int:
    return command_line(lambda: predict.main([*arguments, "--device", "cpu"]), ConfigError)


def table(file: str | Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def said(file: str | Path) -> dict[str, str]:
    return {Path(row["path"]).name: row["answer"] for row in table(file)}


# --------------------------------------------------------------------------- what is asked about


def paths(*given: str | Path) -> list[str]:
    return list(find_pictures([str(path) for path in given], False, set()).truth)


def test_files_folders_and_patterns(here: Path) -> None:
    (here / "pictures/deep").mkdir()
    shutil.copy("pictures/red.png", "pictures/deep/1.PNG")
    (here / "pictures/.hidden.png").write_bytes(b"")
    (here / "pictures/notes.txt").write_text("none")
    every = [f"pictures/{name}.png" for name in sorted(COLOURS)] + ["pictures/deep/1.PNG"]
    assert paths("pictures") == every
    assert paths("pictures/*.png") == every[:3]
    assert paths("pictures/**/*.PNG") == every[3:]
    assert paths("pictures/red.png", "pictures") == ["pictures/red.png", *every[:2], every[3]]
    asked = find_pictures(["pictures"], False, set())
    assert asked.notes == ["pictures: 1 file is not asked about (notes.txt)"]


def test_a_picture_is_answered_once_by_whatever_name(here: Path) -> None:
    spelled = ["pictures/red.png", "./pictures/red.png", here / "pictures/red.png", "pictures//*d*"]
    assert paths(*spelled, *spelled) == ["pictures/red.png"]


def test_up_and_down_again_is_the_same_picture(here: Path) -> None:
    (here / "pictures/deep").mkdir()
    assert paths("pictures/red.png", "pictures/../pictures", "pictures/deep/../red.png") == [
        "pictures/red.png",
        "pictures/../pictures/blue.png",
        "pictures/../pictures/green.png",
    ]
    (here / "elsewhere/pictures").mkdir(parents=True)
    shutil.copy("pictures/red.png", "elsewhere/pictures")
    os.symlink(here / "elsewhere/pictures", "link")
    # Behind a link `..` is another folder.
    assert len(paths("pictures/red.png", "link/../pictures/red.png")) == 2


def test_a_folder_that_is_made_is_said(here: Path, capsys: Capture) -> None:
    assert run("pictures", "--out", "new one/a.csv") == 0
    assert "the folder new one is made" in capsys.readouterr().err
    assert run("pictures", "--out", "new one/b.csv") == 0
    assert "is made" not in capsys.readouterr().err


def test_a_name_that_looks_like_a_pattern(here: Path) -> None:
    shutil.copy("pictures/red.png", "pictures/[a-z]*.png")
    assert paths("pictures/[a-z]*.png") == ["pictures/[a-z]*.png"]


def test_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert paths("~/pictures/red.png") == [str(here / "pictures/red.png")]
    assert run("~/pictures/red.png", "--checkpoint", "~/weights/tiny", "--out", "~/a.csv") == 0
    assert said(here / "a.csv") == {"red.png": "red"}


@pytest.mark.parametrize(
    "content",
    [
        b"pictures/red.png\npictures/gone.png\n\npictures/a b.png",
        b"pictures/red.png\r\npictures/gone.png\r\npictures/a b.png\r\n",
        b"pictures/red.png\0pictures/gone.png\0pictures/a b.png\0",
    ],
)
def test_a_list_on_standard_input(
    content: bytes, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("pictures/blue.png", "pictures/a b.png")
    stdin = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("-", "--out", "a.csv") == 0
    rows = table("a.csv")
    assert [row["answer"] for row in rows] == ["red", "", "blue"]
    assert rows[1]["problem"] == "no such file"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["picturs"], "picturs: no such file or folder; did you mean pictures?"),
        (["pictures/rad.png"], "did you mean pictures/red.png?"),
        (["nowhere/rad.png"], "there is no folder"),
        (["pictures/*.jpg"], "pictures/*.jpg: nothing has such a name"),
        (["empty"], "empty holds no pictures; nothing to answer"),
        (["pictures", "--checkpoint", "tny"], "did you mean weights/tiny"),
        (["pictures", "--checkpoint", "pictures/red.png"], "is not a weights file"),
        (["text.jpg"], "the picture can't be read"),
        (["text.jpg", "--out", "a.csv"], "the picture can't be read; a.csv says why"),
        (["pictures/red.png", "--truth"], "is a file; --truth takes folders"),
        (["pictures", "--truth"], "has no images in class folders"),
        (["--undo", "text.jpg"], "lists no sorted pictures"),
        (["--undo", "gone"], "gone: no such file"),
    ],
)
def test_errors_are_sentences(given: list[str], sentence: str, here: Path, capsys: Capture) -> None:
    (here / "empty").mkdir()
    (here / "text.jpg").write_text("hello")
    assert run(*given) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("error: ") == 1 and "Traceback" not in error


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "name pictures or folders"),
        (["x", "--out", "a.txt"], "its name ends in .csv or .jsonl"),
        (["x", "--resume"], "--resume goes with --out"),
        (["x", "--how", "move"], "--how goes with --sort-into"),
        (["x", "--undo", "undo.csv"], "--undo stands alone"),
        (["-", "--truth"], "--truth takes folders, no list"),
        (["x", "--top", "0"], "--top 0 must be at least 1"),
        (["x", "--min-confidence", "80"], "80 is no number from 0 to 1"),
        (["x", "--unlike", "very"], "very is no number from 0 to 1"),
    ],
)
def test_what_does_not_go_together(given: list[str], sentence: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        predict.parse(given)
    assert sentence in capsys.readouterr().err


def test_weights_and_runs_are_not_named_by_nothing(here: Path, capsys: Capture) -> None:
    """An unset variable is not the newest run, nor the project's own folder a run."""
    assert run("pictures", "--checkpoint", "") == 2
    assert "no weights are named" in capsys.readouterr().err
    with pytest.raises(UserError, match="no run is named"):
        find_run("")
    for name in ("config.yaml", "training.py"):
        Path(name).write_text("")
    with pytest.raises(UserError, match="is not a run: it has no config.yaml, summary.json or"):
        find_run(".")
    with pytest.raises(UserError, match="a folder without model.safetensors"):
        find_checkpoint(".")


@pytest.mark.slow
def test_standard_input_that_is_closed_lists_nothing(here: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(REPO)!r}); import os; os.close(0); sys.stdin = None"
    )
    code += "; from utils import command_line; from tools.predict.__main__ import main"
    code += "; sys.exit(command_line(lambda: main(['-', '--checkpoint', 'tiny'])))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_the_checkpoint_that_the_config_names(here: Path, capsys: Capture) -> None:
    (here / "config.yaml").write_text("inference: {checkpoint: nothing-like-it}\n")
    assert run("pictures") == 2
    assert "nothing-like-it: no such weights" in capsys.readouterr().err
    (here / "config.yaml").write_text("inference: {checkpoint: weights/tiny}\n")
    assert run("pictures") == 0
    assert run("pictures", "--checkpoint", "last") == 0


# ------------------------------------------------------------------------------- what is written


def test_the_table(here: Path, capsys: Capture) -> None:
    (here / "pictures/text.jpg").write_text("hello")
    assert run("pictures", "--top", "2") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert " ".join(lines[0].split()) == "answer sure unlike could also be then picture"
    assert [line.split()[0] for line in lines[1:5]] == ["blue", "green", "red", "unreadable"]
    assert all(line.index("pictures/") == lines[0].index("picture") for line in lines[1:5])
    assert lines[4].endswith("pictures/text.jpg: not an image")
    assert "4 pictures: 1 blue, 1 green, 1 red, 1 unreadable" in lines
    assert lines[-1].startswith("next: ")
    assert "held-out pictures answered" in printed.err


def test_the_table_names_what_an_answer_could_also_be() -> None:
    table = Table(["ant", "bee", "wasp", "fly"], 1, knows_sets=True)
    start = table.head().index("could also be")
    for rest, cell in ((), "-"), (("bee",), "bee"), (("bee", "fly", "wasp"), "bee +2"):
        line = table.line(Row("a.png", None, "ant", "ant", 0.5, None, ("ant", *rest)))
        assert line[start : table.head().index("picture")].strip() == cell
        assert line.index("a.png") == table.head().index("picture")
    assert "also" not in Table(["ant", "bee"], 1, knows_sets=False).head()


def test_a_csv_and_the_same_as_json(here: Path, capsys: Capture) -> None:
    (here / "pictures/text.jpg").write_text("hello")
    assert run("pictures", "--top", "2", "--out", "out/a.csv") == 0
    assert run("pictures", "--top", "9", "--out", "a.jsonl") == 0
    captured = capsys.readouterr()
    assert "pictures/text.jpg: skipped, it can't be read (not an image)" in captured.err
    assert "answers: a.jsonl" in captured.out
    rows = table("out/a.csv")
    objects = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    wanted = Classifier("tiny", device="cpu")("pictures/blue.png")[0]
    assert float(rows[0]["probability"]) == pytest.approx(wanted.probability, abs=2e-6)
    second = sorted(wanted.probabilities.items(), key=lambda item: -item[1])[1]
    assert rows[0]["label_2"] == second[0]
    assert float(rows[0]["probability_2"]) == pytest.approx(second[1], abs=2e-6)
    assert rows[3] == {**dict.fromkeys(rows[3], ""), "path": "pictures/text.jpg"} | {
        "problem": "not an image"
    }
    for row, found in zip(rows, objects, strict=True):
        for key in ("path", "answer", "label", "problem"):
            assert row[key] == (found[key] or "")
    assert len(objects[0]["top"]) == 3 and objects[0]["could_be"][0] == objects[0]["label"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_odd_names_come_back(kind: str, here: Path) -> None:
    odd = ["a, b.png", 'a "b".png', "new\nline.png", " blank.png", "é.png", "\\x0a.png", "#.png"]
    try:
        shutil.copy("pictures/red.png", "pictures/" + os.fsdecode(b"\xff.png"))
        odd.append(os.fsdecode(b"\xff.png"))
    except OSError:  # a system that takes none but UTF-8
        pass
    for name in odd:
        shutil.copy("pictures/red.png", f"pictures/{name}")
    assert run("pictures", "--out", f"a.{kind}") == 0
    content = Path(f"a.{kind}").read_bytes().decode("utf-8")
    rows = table("a.csv") if kind == "csv" else list(map(json.loads, content.splitlines()))
    names = {name_of(row["path"]) for row in rows}
    assert names == {f"pictures/{name}" for name in [*odd, *(f"{c}.png" for c in COLOURS)]}
    assert run("pictures", "--out", f"a.{kind}", "--resume") == 0
    assert Path(f"a.{kind}").read_bytes().decode("utf-8") == content


def test_thresholds_and_what_they_would_have_meant(here: Path, capsys: Capture) -> None:
    assert run("pictures", "--unlike", "0", "--out", "a.csv") == 0
    assert set(said("a.csv").values()) == {"unlike"}
    assert "unlike from 0: 0 of 24 held-out pictures answered" in capsys.readouterr().err
    arguments = ("--min-confidence", "1", "--unlike", "off")
    assert run("pictures", *arguments, "--out", "b.csv") == 0
    captured = capsys.readouterr()
    for row in table("b.csv"):
        assert row["answer"] == "unsure" or float(row["probability"]) == 1
    meant = Classifier("tiny", device="cpu").certainty.meant(1.0, None)  # type: ignore[union-attr]
    assert f"unsure below 1, unlike never said: {meant}" in captured.err


def test_weights_that_know_nothing_say_so(here: Path, capsys: Capture) -> None:
    random_weights(here / "plain.safetensors", num_classes=4)
    assert run("pictures", "--checkpoint", "plain.safetensors", "--unlike", "0.5") == 0
    assert "--unlike has no effect" in capsys.readouterr().err


# --------------------------------------------------------------------------------- a stop, and on


def many(here: Path, count: int = 60) -> None:
    (here / "many").mkdir()
    for i in range(count):
        colour = list(COLOURS)[i % 3]
        os.symlink(here / "images" / colour / f"{i % 8:02}.png", here / f"many/{i:03}.png")
    (here / "many/bad.jpg").write_text("hello")


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classifier, "batch_size", 8)


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Classifier.stream

    def stopping(self: Classifier, pictures: Any) -> Any:
        for number, found in enumerate(own(self, pictures)):
            if number == count:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(Classifier, "stream", stopping)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("count", [0, 5, 8, 21, 60])
def test_a_stop_leaves_a_valid_file_that_is_finished(
    count: int, kind: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    many(here)
    wanted, file = Path(f"wanted.{kind}"), Path(f"a.{kind}")
    assert run("many", "--out", str(wanted)) == 0
    with monkeypatch.context() as stopped:
        stop_after(count, stopped)
        assert run("many", "--out", str(file)) == 130
    kept = count // 8 * 8
    assert f"stopped: {kept} of 61 answers are in {file}" in capsys.readouterr().err
    assert wanted.read_bytes().startswith(file.read_bytes())
    assert Path(f"{file}.unfinished").exists()
    assert run("many", "--out", str(file), "--resume") == 0
    assert "61 pictures: 20 blue, 20 green, 20 red, 1 unreadable" in capsys.readouterr().out
    assert file.read_bytes() == wanted.read_bytes()
    assert not Path(f"{file}.unfinished").exists()


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("csv", b"\xff\n"),
        ("jsonl", b"\xff\n"),
        ("jsonl", b"[" * 9999 + b"\n"),
        ("jsonl", b"3\n"),
        ("jsonl", b"{}\n"),
    ],
)
def test_a_damaged_file_of_answers_is_a_sentence(
    kind: str, damage: bytes, here: Path, capsys: Capture
) -> None:
    file = Path(f"a.{kind}")
    assert run("pictures", "--out", str(file)) == 0
    whole = file.read_bytes()
    file.write_bytes(whole + damage)
    beside = Path(f"{file}.unfinished")
    beside.write_text('{"top": 1, "truth": false}', encoding="utf-8")
    assert run("pictures", "--out", str(file), "--resume") == 2
    assert f"error: {file} " in capsys.readouterr().err
    assert file.read_bytes() == whole + damage
    beside.write_text("[3", encoding="utf-8")
    assert run("pictures", "--out", str(file), "--resume") == 2
    assert f"error: {beside} is damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("bytes_lost", [1, 40, 900])
def test_a_file_cut_in_the_middle_of_a_row_is_finished(
    bytes_lost: int, kind: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that is killed, or a machine, may leave it."""
    many(here)
    wanted, file = Path(f"wanted.{kind}"), Path(f"a.{kind}")
    assert run("many", "--out", str(wanted)) == 0
    with monkeypatch.context() as stopped:
        stop_after(40, stopped)
        run("many", "--out", str(file))
    os.truncate(file, file.stat().st_size - bytes_lost)
    assert run("many", "--out", str(file), "--resume") == 0
    assert file.read_bytes() == wanted.read_bytes()


def test_a_file_that_is_there_is_not_touched(here: Path, capsys: Capture) -> None:
    (here / "a.csv").write_text("mine\n1\n")
    assert run("pictures", "--out", "a.csv") == 2
    assert "a.csv exists: remove it, or name another file" in capsys.readouterr().err
    assert run("pictures", "--out", "a.csv", "--resume") == 2
    assert "a.csv was not written by this command" in capsys.readouterr().err
    assert (here / "a.csv").read_text() == "mine\n1\n"


def test_a_finished_file_is_said_again_or_lacks_pictures(here: Path, capsys: Capture) -> None:
    assert run("pictures", "--out", "a.csv", "--resume") == 0  # nothing to resume: it begins
    before = Path("a.csv").read_bytes()
    capsys.readouterr()
    assert run("pictures", "--out", "a.csv", "--resume") == 0
    assert "3 pictures: 1 blue, 1 green, 1 red" in capsys.readouterr().out
    shutil.copy("pictures/red.png", "pictures/new.png")
    assert run("pictures", "--out", "a.csv", "--resume") == 2
    assert "is finished, and lacks 1 of these pictures" in capsys.readouterr().err
    assert Path("a.csv").read_bytes() == before


@pytest.mark.usefixtures("small_batches")
def test_a_file_is_finished_as_it_was_begun(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    many(here)
    with monkeypatch.context() as stopped:
        stop_after(20, stopped)
        run("many", "--out", "a.csv")
    assert run("many", "--out", "a.csv") == 2
    assert "finish it with --resume" in capsys.readouterr().err
    for other, before, now in (
        (["--top", "2"], "with --top 1", "with --top 2"),
        (["--flip"], "without --flip", "with --flip"),
        (["--unlike", "off"], "with --unlike 0.95", "with --unlike off"),
    ):
        assert run("many", "--out", "a.csv", "--resume", *other) == 2
        wanted = f"a.csv was begun {before}, and this asks {now}: give the same, or answer into"
        assert wanted in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_finished_file_was_written_otherwise(kind: str, here: Path, capsys: Capture) -> None:
    out = ("--out", f"a.{kind}")
    assert run("pictures", *out) == 0
    before = Path(f"a.{kind}").read_bytes()
    capsys.readouterr()
    assert run("pictures", *out, "--resume", "--top", "2") == 2
    said = f"a.{kind} was finished with --top 1, and this asks with --top 2: give the same, or "
    assert said in capsys.readouterr().err
    assert run("images", *out, "--resume", "--truth") == 2
    assert "finished without --truth, and this asks with --truth" in capsys.readouterr().err
    assert Path(f"a.{kind}").read_bytes() == before
    assert run("pictures", *out, "--resume") == 0
    assert "is finished: its answers are counted again" in capsys.readouterr().err


def test_a_full_disk_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"top": 1, "truth": False}
    file = AnswersFile(tmp_path / "a.csv", settings, 2, False)
    row = row_of("a.png", None, Answer("x", 1.0, {"x": 1.0}, None, ("x",), False, False), 1)
    file.write([row, row])
    before = file.path.read_bytes()
    monkeypatch.setattr(file, "_written", lambda rows: Short(b"a.png,x,x"))
    with pytest.raises(OSError, match="No space left"):
        file.write([row])
    assert file.path.read_bytes() == before


class Short(bytes):
    """Bytes of which the disk took fewer than there are."""

    def __len__(self) -> int:
        return super().__len__() + 1


def test_what_a_problem_says_stays_in_its_row(tmp_path: Path) -> None:
    file = AnswersFile(tmp_path / "a.csv", {"top": 1, "truth": False}, 8, False)
    file.write([row_of("a\udcff.png", None, Unreadable("odd\r\0, \udcff"), 1)])
    (found,) = file.rows()
    assert found == Row("a\udcff.png", None, problem="odd\\x0d\\x00, \\xff")


@pytest.mark.slow
def test_ctrl_c_and_kill_of_the_program(here: Path) -> None:
    many(here, 2_000)
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tools.predict", "many", "--device", "cpu", "--out"]
    subprocess.run([*command, "wanted.csv"], env=environment, check=True)
    for number in (signal.SIGINT, signal.SIGKILL):
        Path("a.csv").unlink(missing_ok=True)
        process = subprocess.Popen([*command, "a.csv"], env=environment, stderr=subprocess.PIPE)
        while not (Path("a.csv").exists() and Path("a.csv").stat().st_size > 5_000):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        error = process.communicate()[1]
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert b"Traceback" not in error
        subprocess.run([*command, "a.csv", "--resume"], env=environment, check=True)
        assert Path("a.csv").read_bytes() == Path("wanted.csv").read_bytes()


# ---------------------------------------------------------------------------------------- sorting


def tree(folder: Path | str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*")}


@pytest.mark.parametrize("how", ["copy", "link", "move"])
def test_sorting_and_its_way_back(how: str, here: Path, capsys: Capture) -> None:
    (here / "pictures/deep").mkdir()
    shutil.copy("images/red/05.png", "pictures/deep/red.png")
    (here / "pictures/text.jpg").write_text("hello")
    before = {path: Path(path).read_bytes() for path in paths("pictures")}
    assert run("pictures", "--sort-into", "sorted", "--how", how) == 0
    files = {"blue/blue.png", "green/green.png", "red/red.png", "red/red-2.png"}
    assert tree("sorted") == files | {"blue", "green", "red", "undo.csv"}
    assert Path("sorted/red/red-2.png").read_bytes() == before["pictures/deep/red.png"]
    assert Path("sorted/red/red.png").is_symlink() == (how == "link")
    left = {p for p in before if Path(p).exists()}
    assert left == ({"pictures/text.jpg"} if how == "move" else set(before))
    out = capsys.readouterr().out
    assert "take back: python -m tools.predict --undo sorted/undo.csv" in out
    assert run("--undo", "sorted/undo.csv") == 0
    assert {path: Path(path).read_bytes() for path in paths("pictures")} == before
    assert not Path("sorted").exists()


def test_unsure_and_unlike_have_folders(here: Path) -> None:
    assert run("pictures", "--unlike", "0", "--sort-into", "far") == 0
    assert {path.parent.name for path in Path("far").rglob("*.png")} == {"unlike"}
    answers = [("pictures/red.png", "unsure"), ("pictures/blue.png", "blue")]
    sort_into(Path("some"), "copy", answers)
    assert {p for p in tree("some") if p.endswith("png")} == {"unsure/red.png", "blue/blue.png"}


@pytest.mark.parametrize("how", ["copy", "link", "move"])
def test_nothing_is_overwritten_and_nothing_sorted_twice(how: str, here: Path) -> None:
    (here / "sorted/red").mkdir(parents=True)
    (here / "sorted/red/red.png").write_text("mine")
    answers = [("pictures/red.png", "red")]
    assert sort_into(Path("sorted"), how, answers).folders == {"red": 1}
    again = sort_into(Path("sorted"), how, answers)
    assert again.there == 1 and not again.folders and not again.failed
    assert Path("sorted/red/red.png").read_text() == "mine"
    assert Path("sorted/red/red-2.png").exists() and not Path("sorted/red/red-3.png").exists()
    take_back(Path("sorted"))
    assert tree("sorted") == {"red", "red/red.png"} and Path("pictures/red.png").is_file()


def test_a_folder_sorted_in_place(here: Path, capsys: Capture) -> None:
    before = tree("pictures")
    assert run("pictures", "--sort-into", "pictures", "--how", "move") == 0
    assert {"red/red.png", "blue/blue.png"} <= tree("pictures")
    shutil.copy("images/red/01.png", "pictures/later.png")
    capsys.readouterr()
    assert run("pictures", "--sort-into", "pictures", "--how", "move") == 0
    assert "1 picture: 1 red" in capsys.readouterr().out
    assert "red/later.png" in tree("pictures")
    assert run("--undo", "pictures") == 0
    assert tree("pictures") == before | {"later.png"}


def test_where_nothing_can_be_moved_that_is_an_error(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refused(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sorting, "move", refused)
    before = tree("pictures")
    assert run("pictures", "--sort-into", "sorted", "--how", "move") == 2
    said = capsys.readouterr()
    assert "is moved; pictures/" in said.err and "not permitted" in said.err
    assert "take back" not in said.out and tree("pictures") == before
    assert [path.name for path in Path("sorted").iterdir()] == ["undo.csv"]


def test_what_was_moved_on_by_hand_stays_there_and_listed(here: Path, capsys: Capture) -> None:
    """A correction is not asked about again, and where the picture came from is not forgotten."""
    assert run("pictures", "--sort-into", "pictures/sorted", "--how", "move") == 0
    os.rename("pictures/sorted/red/red.png", "pictures/sorted/blue/red.png")
    shutil.copy("images/red/01.png", "pictures/later.png")
    capsys.readouterr()
    assert run("pictures", "--sort-into", "pictures/sorted", "--how", "move") == 0
    assert "1 picture: 1 red" in capsys.readouterr().out, "the later one alone"
    assert Path("pictures/sorted/blue/red.png").exists()
    said = take_back(Path("pictures/sorted"))
    assert said.startswith("3 moved back; 1 left where they are, and listed in ")
    assert "sorted/red/red.png (moved on, renamed or deleted since)" in said
    assert [Path(step.source).name for step in steps(Path("pictures/sorted/undo.csv"))] == [
        "red.png"
    ]
    os.makedirs("pictures/sorted/red")
    os.rename("pictures/sorted/blue/red.png", "pictures/sorted/red/red.png")
    assert take_back(Path("pictures/sorted")) == "1 moved back"
    assert Path("pictures/red.png").is_file()


def test_what_was_changed_since_is_not_taken_back(here: Path) -> None:
    colours = [(f"pictures/{c}.png", c) for c in COLOURS]
    sort_into(Path("sorted"), "copy", colours)
    Path("sorted/red/red.png").write_text("drawn over")
    assert "2 copies removed; 1 left where they are" in take_back(Path("sorted"))
    assert [Path(step.target).name for step in steps(Path("sorted/undo.csv"))] == ["red.png"]
    assert tree("sorted") == {"red", "red/red.png", "undo.csv"}
    sort_into(Path("moved"), "move", colours)
    Path("pictures/red.png").write_text("another")
    assert "2 moved back; 1 left" in take_back(Path("moved/undo.csv"))
    assert Path("pictures/red.png").read_text() == "another"
    Path("pictures/red.png").unlink()
    assert "1 moved back" in take_back(Path("moved/undo.csv"))


def test_a_stop_while_sorting_can_be_taken_back_or_gone_on_with(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    own, calls = sorting.move, []

    def failing(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        own(source, target)

    before = tree("pictures")
    with monkeypatch.context() as stopped:
        stopped.setattr(sorting, "move", failing)
        assert run("pictures", "--out", "a.csv", "--sort-into", "sorted", "--how", "move") == 130
    assert "stopped while sorting" in capsys.readouterr().err
    assert tree("pictures") != before
    options = ("--out", "a.csv", "--resume", "--sort-into", "sorted", "--how", "move")
    assert run("pictures", *options) == 0
    assert "1 were there already" in capsys.readouterr().out and not tree("pictures")
    assert run("--undo", "sorted/undo.csv") == 0
    assert tree("pictures") == before and not Path("sorted").exists()


def test_a_row_that_a_full_disk_has_cut_takes_no_other_along(here: Path) -> None:
    """What was appended behind it stood in its row; --undo left that picture, and its list went."""
    before = tree("pictures")
    sort_into(Path("sorted"), "move", [("pictures/red.png", "red")])
    with open("sorted/undo.csv", "a") as file:
        file.write(f"move,{here}/pictures/bl")
    sort_into(Path("sorted"), "move", [("pictures/blue.png", "blue")])
    assert [Path(step.source).name for step in steps(Path("sorted/undo.csv"))] == [
        *("red.png", "blue.png")
    ]
    assert take_back(Path("sorted")) == "2 moved back" and tree("pictures") == before


def test_a_list_that_an_editor_has_saved_loses_no_row(here: Path) -> None:
    sort_into(Path("sorted"), "move", [("pictures/red.png", "red")])
    text = Path("sorted/undo.csv").read_text()
    Path("sorted/undo.csv").write_text(text.rstrip())
    sort_into(Path("sorted"), "move", [("pictures/blue.png", "blue")])
    assert take_back(Path("sorted")) == "2 moved back"


@pytest.mark.parametrize("left", ["", "how,fr", "how,from,to"])
def test_a_list_that_was_not_begun_is_begun(here: Path, left: str) -> None:
    (here / "sorted").mkdir()
    Path("sorted/undo.csv").write_text(left)
    sort_into(Path("sorted"), "move", [("pictures/red.png", "red")])
    assert take_back(Path("sorted")) == "1 moved back"


def test_a_list_with_a_row_that_is_none_stays(here: Path) -> None:
    sort_into(Path("sorted"), "copy", [(f"pictures/{c}.png", c) for c in COLOURS])
    listed = Path("sorted/undo.csv").read_text().splitlines()
    listed[2] = listed[2] + "," + listed[2]
    Path("sorted/undo.csv").write_text("\n".join(listed))
    with pytest.raises(UserError, match="line 3 has 6 cells, not 3; mend it by hand"):
        take_back(Path("sorted"))
    assert Path("sorted/red/red.png").exists() and Path("sorted/undo.csv").exists()


def test_a_full_disk_is_where_the_copy_goes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device", source)

    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(OSError) as caught:
        sort_into(Path("sorted"), "copy", [("pictures/red.png", "red")])
    assert caught.value.filename == f"{here}/sorted/red/red.png"


def test_one_picture_is_no_pictures(here: Path, capsys: Capture) -> None:
    sort_into(Path("sorted"), "copy", [("pictures/red.png", "red")])
    assert run("sorted", "pictures", "--sort-into", "sorted") == 0
    assert "sorted: 1 picture lies sorted there, and is left out" in capsys.readouterr().err
    assert take_back(Path("sorted")) == "3 copies removed"
    sort_into(Path("sorted"), "copy", [("pictures/red.png", "red")])
    assert take_back(Path("sorted")) == "1 copy removed"
    Path("broken.png").write_bytes(b"no")
    assert run("broken.png") == 2
    assert "the picture can't be read; name others" in capsys.readouterr().err


def test_a_link_that_is_moved_leads_where_it_led(here: Path) -> None:
    os.symlink("red.png", "pictures/link.png")
    sort_into(Path("sorted"), "move", [("pictures/link.png", "red")])
    assert Path("sorted/red/link.png").read_bytes() == Path("pictures/red.png").read_bytes()
    take_back(Path("sorted"))
    assert Path("pictures/link.png").read_bytes() == Path("pictures/red.png").read_bytes()


@pytest.mark.parametrize(
    ("label", "name"),
    [("ants", "ants"), ("a/b", "a_b"), ("..", "_.."), ("", "_"), (text_of("a\nb"), "a\nb")],
)
def test_a_folder_for_any_label(label: str, name: str) -> None:
    assert folder_name(label) == name


# ---------------------------------------------------------------------------------------- scores


def test_a_labelled_folder_is_scored(here: Path, capsys: Capture) -> None:
    shutil.copytree("images", "labelled")
    os.rename("labelled/red", "labelled/Red")
    shutil.copytree("images/blue", "labelled/sky")
    assert run("--truth", "labelled", "--out", "a.csv") == 0
    captured = capsys.readouterr()
    assert "Red is not one of the network's classes, and not counted; did you mean red?" in (
        captured.err
    )
    assert "sky is not one of the network's classes, and not counted; it has" in captured.err
    assert "of the 16 pictures were trained on: the score flatters" in captured.err
    assert "accuracy 1.0000 (95 %: 0.806 to 1.000, 16 images), the label alone" in captured.out
    assert "no images of red" in captured.out
    rows = table("a.csv")
    assert {row["truth"] for row in rows} == {"Red", "blue", "green", "sky"}
    assert run("--truth", "labelled", "--out", "a.csv", "--resume") == 0
    assert "16 images), the label alone" in capsys.readouterr().out


def test_no_known_class_is_an_error(here: Path, capsys: Capture) -> None:
    shutil.copytree("images/red", "labelled/Red")
    shutil.copytree("images/blue", "labelled/sky")
    assert run("--truth", "labelled") == 2
    assert "no folder is one of the network's classes" in capsys.readouterr().err


def test_the_scores_add_up() -> None:
    counts = {
        ("ants", "ants", "ants"): 6,
        ("ants", "ants", "unsure"): 1,
        ("ants", "bees", "bees"): 3,
        ("bees", "bees", "bees"): 9,
        ("bees", "ants", "unlike"): 1,
        ("wasps", "bees", "unlike"): 4,
        ("wasps", "bees", "bees"): 1,
    }
    lines = scored(Counter(counts), ("ants", "bees"))
    assert lines[0].startswith("accuracy 0.8000 (95 %: ") and "20 images" in lines[0]
    assert lines[1].startswith("accuracy 0.8333 (95 %: ") and "18 images" in lines[1]
    assert " ".join(lines[3].split()) == "ants 10 0.700 0.397 to 0.892 9 bees 3"
    assert " ".join(lines[4].split()) == "bees 10 0.900 0.596 to 0.982 9 ants 1"
    wasps = "wasps: no class of the network, not counted; 5 images: 4 unlike, 1 answered"
    assert lines[5] == wasps


def test_a_folder_that_is_no_class_is_said_with_what_is_meant() -> None:
    assert foreign(["ants", "beees"], ("ants", "bees")) == [
        "beees is not one of the network's classes, and not counted; did you mean bees? rename the "
        "folder"
    ]


def test_the_mirror_image_has_its_say(here: Path) -> None:
    assert run("pictures", "--flip", "--out", "a.csv") == 0
    wanted = Classifier("tiny", device="cpu", flip=True)("pictures/red.png")[0].probability
    row = next(row for row in table("a.csv") if row["path"].endswith("red.png"))
    assert float(row["probability"]) == pytest.approx(wanted, abs=2e-6)


def test_many_bad_pictures_are_not_all_named(here: Path, capsys: Capture) -> None:
    for i in range(predict.MOST_NAMED + 5):
        (here / f"pictures/{i:02}.jpg").write_text("hello")
    assert run("pictures", "--out", "a.csv") == 0
    captured = capsys.readouterr()
    assert captured.err.count("skipped, it can't be read") == predict.MOST_NAMED
    assert f"{predict.MOST_NAMED + 5} unreadable" in captured.out
