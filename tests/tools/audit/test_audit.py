"""The whole of an audit: of a run, of a folder with known faults."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.findings import AUDIT, COLUMNS
from filing.csv_files import read_csv
from tests.helpers import COLOURS, flip, picture, pictures_of, random_weights, scene, small_run
from tools.audit.__main__ import main
from tools.audit.about import read_about
from utils import UserError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, train and val, with one wrong label, a leak, a copy under another
    class, a blank picture and a file that is none; weights, and a place for the rest."""
    home = tmp_path_factory.mktemp("a folder")
    for part, start, each in (("train", 0, 24), ("val", 40, 8)):
        pictures_of(home / "set" / part, 0)
        for name in COLOURS:
            for i in range(start, start + each):
                picture(name, i, (160, 120)).save(home / "set" / part / name / f"{i:02}.png")
    train, val = home / "set/train", home / "set/val"
    picture("red", 90, (160, 120)).save(train / "blue" / "wrong.png")
    shutil.copy(train / "green/00.png", val / "green/leak.png")
    picture("red", 3, (160, 120)).resize((240, 180)).save(train / "green" / "twin.jpg", quality=90)
    Image.fromarray(np.full((120, 120, 3), 255, np.uint8)).save(train / "red" / "blank.png")
    (train / "red" / "broken.png").write_bytes(b"no picture")
    random_weights(home / "from.safetensors", num_classes=0)
    return home


def look(home: Path, *words: str) -> list[dict[str, str]]:
    places = [f"train.data={home}", f"train.log_path={home}/logs", "train.device=cpu"]
    assert main([*words, *places]) == 0
    return read_csv(next((home / "logs").glob("audit-*")) / AUDIT)


@pytest.fixture(scope="module")
def rows(home: Path) -> list[dict[str, str]]:
    return look(home, str(home / "set"), f"--weights={home / 'from.safetensors'}")


def of(rows: list[dict[str, str]], kind: str) -> list[str]:
    return [row["path"] for row in rows if row["kind"] == kind]


def test_each_fault_is_a_row_of_its_kind(rows: list[dict[str, str]]) -> None:
    assert tuple(rows[0]) == COLUMNS
    label = next(row for row in rows if row["path"] == "train/blue/wrong.png")
    assert (label["kind"], label["given"], label["suggested"]) == ("label", "blue", "red")
    assert float(label["score"]) > 0.5
    assert of(rows, "leak") == ["train/green/00.png"]
    assert "train/red/blank.png" in of(rows, "quality")
    assert of(rows, "unreadable") == ["train/red/broken.png"]


def test_a_twin_under_another_class_is_a_copy(rows: list[dict[str, str]]) -> None:
    twins = [row for row in rows if row["kind"] == "duplicate"]
    assert {row["path"] for row in twins} == {"train/green/twin.jpg", "train/red/03.png"}
    assert len({row["group"] for row in twins}) == 1
    assert {row["given"] for row in twins} == {"green", "red"}


def test_rows_are_in_the_order_of_their_kinds_the_worst_first(rows: list[dict[str, str]]) -> None:
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    assert kinds == [k for k in ("label", "leak", "duplicate", "outlier", "quality", "unreadable")
                     if k in kinds]  # fmt: skip
    scores = [float(row["score"]) for row in rows if row["kind"] == "label"]
    assert scores == sorted(scores, reverse=True)


def test_the_page_and_the_log_say_it(rows: list[dict[str, str]], home: Path) -> None:
    folder = home / "logs/audit-set"
    page = (folder / "audit.html").read_text(encoding="utf-8")
    said = (folder / "audit.log").read_text(encoding="utf-8")
    assert "wrong.png" in page
    assert "leaks, left out: 1 file, byte-identical to held-out pictures" in said
    assert "1 of these pictures under several classes" in said
    assert re.search(r"labels: .* looks? wrong, beside those of copies under several classes", said)
    assert "pictures of 3 classes (74 train, 25 val)" in said
    assert "unreadable: 1 (train/red/broken.png)" in said and "not used: 1 other file" in said


def test_pictures_are_left_as_they_were(rows: list[dict[str, str]], home: Path) -> None:
    assert len([p for p in (home / "set").rglob("*") if p.is_file()]) == 3 * 32 + 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("run")
    small_run(home, pictures_of(home / "pictures", 12), "mine", head="class")
    return home


def test_a_run_is_audited_by_its_split_and_its_report_gets_the_rows(run: Path) -> None:
    look(run, str(run / "logs/mine"))
    assert (run / "logs/audit-mine/audit.csv").read_bytes() == (
        run / "logs/mine/audit.csv"
    ).read_bytes()


def test_a_run_is_audited_from_its_own_tokens(
    tmp_path: Path, seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """It made a second pass, and a second cache; what it finds is the same."""
    small_run(tmp_path, pictures_of(tmp_path / "pictures", 12), "mine", head="both", views=2)
    seen.clear()
    capsys.readouterr()
    own = look(tmp_path, str(tmp_path / "logs/mine"))
    assert not seen and "tokens: those of a run, in" in capsys.readouterr().out
    assert len(list((tmp_path / "cache").glob("*/header.json"))) == 1
    flip(next((tmp_path / "cache").glob("*/layers.bin")), 100)
    again = look(tmp_path, str(tmp_path / "logs/mine"))
    assert again == own and sum(seen) == 36, "a damaged record is the run's to mend"
    shutil.rmtree(tmp_path / "cache")
    seen.clear()
    assert look(tmp_path, str(tmp_path / "logs/mine")) == own and sum(seen) == 36


def test_a_class_that_came_since_the_run_is_audited_too(tmp_path: Path) -> None:
    small_run(tmp_path, pictures_of(tmp_path / "pictures", 12), "mine", head="class")
    (tmp_path / "pictures/grey").mkdir()
    for i in range(8):
        scene(i).save(tmp_path / f"pictures/grey/{i}.png")
    look(tmp_path, str(tmp_path / "logs/mine"))
    said = (tmp_path / "logs/audit-mine/audit.log").read_text(encoding="utf-8")
    assert "44 pictures of 4 classes" in said


def test_a_run_whose_whole_network_learned_the_labels_needs_other_weights(tmp_path: Path) -> None:
    folder = tmp_path / "logs/full"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("train: {mode: scratch}\n")
    (folder / "split.csv").write_text("path,label,part,sha256\n")
    with pytest.raises(UserError, match="name the weights that look with --weights"):
        main([str(folder)])


@pytest.mark.parametrize("wanted", ["nowhere", "logs/nowhere", "nowhere.yaml"])
def test_what_is_not_there_is_one_sentence(wanted: str, monkeypatch: pytest.MonkeyPatch,
                                           tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is no folder of pictures, no config file"):
        main([wanted])


def test_a_folder_of_the_same_name_has_an_audit_of_its_own(run: Path, tmp_path: Path) -> None:
    for place in ("one", "two"):
        pictures_of(tmp_path / place / "set", 6)
        look(tmp_path, str(tmp_path / place / "set"), f"--weights={run / 'from.safetensors'}")
    roots = [read_about(tmp_path / "logs" / name).root for name in ("audit-set", "audit-set-2")]
    assert roots == [tmp_path / "one/set", tmp_path / "two/set"]
    look(tmp_path, str(tmp_path / "one/set"), f"--weights={run / 'from.safetensors'}")
    assert len(list((tmp_path / "logs").glob("audit-*"))) == 2


def test_a_run_whose_pictures_were_moved_is_audited_as_they_are(tmp_path: Path) -> None:
    small_run(tmp_path, pictures_of(tmp_path / "pictures", 12), "moved", head="class")
    (tmp_path / "pictures/red/00.png").rename(tmp_path / "pictures/blue/moved.png")
    (tmp_path / "pictures/green/03.png").unlink()
    look(tmp_path, str(tmp_path / "logs/moved"))
    said = (tmp_path / "logs/audit-moved/audit.log").read_text()
    assert "35 pictures of 3 classes" in said


def test_a_run_whose_decisions_were_carried_out_is_audited(tmp_path: Path) -> None:
    pictures = pictures_of(tmp_path / "pictures", 12)
    file = tmp_path / "decisions.csv"
    rows = ["red/00.png,relabel,blue", "red/01.png,leave out,", "red/02.png,keep,"]
    file.write_text("\n".join(["path,decision,label", *rows]) + "\n", encoding="utf-8")
    small_run(tmp_path, pictures, "decided", head="class", labels=str(file))
    assert main(["--apply", str(file), "--root", str(pictures)]) == 0
    look(tmp_path, str(tmp_path / "logs/decided"))
    said = (tmp_path / "logs/audit-decided/audit.log").read_text(encoding="utf-8")
    assert f"2 of the pictures in {file} are not there any more" in said
    assert "35 pictures of 3 classes" in said


def test_a_run_that_trained_all_weights_is_audited_by_others(run: Path, tmp_path: Path) -> None:
    pictures_of(tmp_path / "pictures", 12)
    words = {"mode": "pretrained", "mixup": 0.2, "lr": 0.001, "head": "class"}
    small_run(tmp_path, tmp_path / "pictures", "mine", max_epochs=1, **words)
    look(tmp_path, str(tmp_path / "logs/mine"), f"--weights={run / 'from.safetensors'}")
    assert (tmp_path / "logs/audit-mine/audit.html").is_file()


def test_a_single_picture_is_one_sentence(tmp_path: Path) -> None:
    picture("red", 0).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a sub-folder for each class"):
        main([str(tmp_path / "a.png")])


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        main([str(tmp_path / "empty"), "--weights=none.safetensors"])
