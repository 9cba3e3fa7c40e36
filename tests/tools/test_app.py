"""tools.app: where it listens, what it says, and what it shows of a run; test_app_page.py has the
page in a browser."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from answers import Row
from certainty.certainty import Certainty
from classifier import Answer, Classifier
from config import ConfigError
from inspection.record import read_run
from tests.helpers import picture, pictures_of, random_weights, small_run
from tests.tools.helpers import PREDICTED, answer, write_rows
from tools.app import __main__ as app
from tools.app.answering import AT_ONCE, Answering
from tools.app.known import in_turn, known_pictures
from tools.app.place import is_own, listening, url_of
from tools.app.words import BARS, percent, said, summed
from utils import UserError, command_line

Capture = pytest.CaptureFixture[str]
SURE = Answer("bee", 0.97, {"ant": 0.03, "bee": 0.97}, 0.2, ("bee",), False, False)
MEASURED: Any = SimpleNamespace(
    certainty=Certainty(150), classes=("ant", "bee"), min_confidence=0.5
)


def test_without_gradio_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert command_line(lambda: app.main([]), ConfigError) == 2
    assert capsys.readouterr().err == "error: tools.app needs gradio: pip install gradio\n"


# ------------------------------------------------------------------------------------------- where


def test_a_used_port_is_left_out() -> None:
    with listening("127.0.0.1", None) as first, listening("127.0.0.1", None) as second:
        assert second.getsockname()[1] > first.getsockname()[1] >= 7860
        assert url_of(first) == f"http://127.0.0.1:{first.getsockname()[1]}"


def test_a_used_port_that_is_asked_for_is_said_with_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} is in use; (\d+) is free: --port \1"):
            listening("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no host", "nowhere.invalid"])
def test_a_host_that_is_not_here(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if host == "nowhere.invalid":  # no name is asked for in a test

        def unknown(*args: Any, **options: Any) -> Any:
            raise socket.gaierror

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match=f"--host {host}.*(this machine|all of them)"):
        listening(host, None)


def test_which_hosts_are_this_machine_s_alone() -> None:
    assert is_own("127.0.0.1") and is_own("::1") and is_own("localhost")
    assert not is_own("0.0.0.0") and not is_own("192.0.2.1") and not is_own("example.org")


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port_that_is_none(port: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        app.parse(["--port", port])
    assert "--port" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- words


def test_an_answer_in_words() -> None:
    words = said(SURE, MEASURED)
    assert (words.headline, words.kind) == ("bee", "label")
    assert words.meaning == "Of answers that are as sure as this one, about 97.0 % are right."
    assert words.could_be == "Nothing but bee is likely enough to be considered."
    assert words.bars == [("bee", 0.97), ("ant", 0.03)] and words.rest == ""


def test_unsure_unlike_and_unmeasured() -> None:
    unsure = said(replace(SURE, probability=0.4, unsure=True), MEASURED)
    assert unsure.headline == "Unsure" and "bee, at 40.0 %: less than the 50.0 %" in unsure.meaning
    strange = said(replace(SURE, unlike=0.991, unsure=True, strange=True), MEASURED)
    assert strange.headline == "Unlike anything it has learned" and strange.could_be == ""
    assert strange.meaning.startswith("99.1 % of the known pictures")
    both = said(replace(SURE, could_be=("bee", "ant")), MEASURED)
    assert "can't leave out any" in both.could_be
    few = SimpleNamespace(**vars(MEASURED) | {"certainty": Certainty(10)})
    meaning = said(SURE, few).meaning  # type: ignore[arg-type]
    assert meaning == "It gives this 97.0 %; 10 held-out pictures are too few to say if that is so."
    for right, says in (
        (36, "Of answers that"),
        (31, "It gives this 97.0 %; 36 held-out pictures"),
    ):
        known = Certainty(36)
        known.held_out[:right, 1] = 1.0
        some = SimpleNamespace(**vars(MEASURED) | {"certainty": known})
        assert said(SURE, some).meaning.startswith(says)  # type: ignore[arg-type]
    never = SimpleNamespace(certainty=None, classes=("ant", "bee"), min_confidence=0.5)
    assert "nobody has measured" in said(SURE, never).meaning  # type: ignore[arg-type]


def test_of_many_classes_some_have_bars() -> None:
    many = {f"c{i}": 1 / 40 for i in range(40)}
    words = said(replace(SURE, probabilities=many), MEASURED)
    assert len(words.bars) == BARS and words.rest == "30 more classes, 75.0 % together"


def test_no_share_is_rounded_to_none_or_all() -> None:
    assert [percent(p) for p in (0.0, 1e-5, 0.5, 0.99999, 1.0)] == [
        "0.0 %",
        "< 0.1 %",
        "50.0 %",
        "> 99.9 %",
        "100.0 %",
    ]


def test_what_many_came_to() -> None:
    rows = [Row("a", None, "bee"), Row("b", None, "unsure"), Row("c", None, "bee")]
    assert summed([*rows, Row("d", None, problem="no")]) == (
        "4 pictures: 2 bee, 1 unsure, 1 can't be read"
    )
    assert summed([Row("d", None, problem="no")]) == "1 picture: 1 can't be read"


# ------------------------------------------------------------------------------------------ answers


def test_answers_are_the_classifier_s(tmp_path: Path) -> None:
    classifier = Classifier(random_weights(tmp_path / "w.safetensors"), device="cpu")
    files = [(tmp_path / f"{i}.png", f"name {i}") for i in range(3)]
    for i, (path, _) in enumerate(files):
        picture("red", i).save(path)
    (tmp_path / "bad.png").write_text("none")
    answering = Answering(classifier)
    rows = list(answering.many([*files, (tmp_path / "bad.png", "bad")]))
    assert [row.path for row in rows] == ["name 0", "name 1", "name 2", "bad"]
    for row, wanted in zip(rows, classifier([path for path, _ in files]), strict=False):
        assert row.said == wanted.said and row.probability == pytest.approx(wanted.probability)
    assert rows[3].problem == "not an image"
    told = answering.one(*files[0])
    assert told.row.probability == pytest.approx(rows[0].probability, abs=1e-5)
    assert told.picture is not None and told.looked is not None and told.picture != told.looked
    assert (told.picture.width, told.picture.height) == (50, 40)
    assert answering.one(*files[0], looks=False).picture is None


def test_many_end_with_what_they_have(tmp_path: Path) -> None:
    classifier = Classifier(random_weights(tmp_path / "w.safetensors"), device="cpu")
    picture("red", 0).save(tmp_path / "a.png")
    answering = Answering(classifier)
    rows = answering.many([(tmp_path / "a.png", str(i)) for i in range(3 * AT_ONCE)])
    assert next(rows).path == "0"
    answering.end()
    assert len(list(rows)) == AT_ONCE - 1


def test_a_picture_of_too_many_pixels_is_not_read(tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "w.safetensors")
    picture("red", 0).save(tmp_path / "a.png")
    answering = Answering(Classifier(weights, device="cpu", max_pixels=1999))
    told = answering.one(tmp_path / "a.png", "a.png")
    assert told.said is None and told.row.problem == "50 x 40 are 2,000 pixels, more than 1,999"


# ------------------------------------------------------------------------------------ the run's own


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images`, and a run called tiny that has mistakes."""
    folder = tmp_path_factory.mktemp("home")
    small_run(folder, pictures_of(folder / "images"), "tiny")
    rows = [["val", "red/01.png", "red", "red", 0.9, 0.9]]
    rows += [["val", "red/02.png", "red", "blue", p, 0.1] for p in (0.6, 0.8)]
    write_rows(folder / "logs/tiny/predictions.csv", PREDICTED, rows)
    return folder


def test_examples_and_the_surest_mistakes_first(home: Path) -> None:
    known = known_pictures(read_run(home / "logs/tiny"), home / "weights/tiny/best.safetensors")
    assert [one.caption for one in known.examples] == ["red"] * 3
    assert [one.caption for one in known.mistakes] == [
        "red, taken for blue (0.80)",
        "red, taken for blue (0.60)",
    ]
    assert known.mistakes[0].path == home / "images/red/02.png"
    assert "3 pictures of the validation part" in known.note and "learned" not in known.note


def test_why_there_are_no_examples(home: Path, tmp_path: Path) -> None:
    weights = home / "weights/tiny/best.safetensors"
    assert "no run lies beside" in known_pictures(None, weights).note
    shutil.copytree(home / "logs/tiny", tmp_path / "tiny")
    os.rename(home / "images", home / "moved")
    try:
        known = known_pictures(read_run(tmp_path / "tiny"), weights)
    finally:
        os.rename(home / "moved", home / "images")
    assert not known.examples and f"are not in {home / 'images'}" in known.note
    (tmp_path / "tiny/predictions.csv").unlink()
    assert "no predictions.csv" in known_pictures(read_run(tmp_path / "tiny"), weights).note


def test_examples_take_the_classes_in_turn() -> None:
    given = [answer(name, name) for name in ("a",) * 9 + ("b",) * 2]
    assert [p.label for p in in_turn(given, 6)] == ["a", "b", "a", "b", "a"]
    assert len(in_turn([answer(f"c{i}", "c0") for i in range(50)], 6)) == 6
