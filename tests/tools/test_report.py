"""Reports, opened in a real browser."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from config import Config
from engine.run import find_run
from inspection.record import Prediction, read_run
from inspection.thumbnails import below, small
from model import VisionTransformer
from pretrained.write import save_model
from system.filenames import text_of
from tests.helpers import TINY_VIT, picture
from tests.tools.helpers import PREDICTED, answer, made_up, make_run, write_rows
from tools import compare
from tools.report import __main__ as report
from tools.report import pictures
from tools.report.answers import calibrated, surest
from utils import UserError

LAYERS = ("block", "left_out_accuracy", "low", "high")
SIZES, SCHEMES = (390, 1440), ("light", "dark")
EVIL = "<script>document.title='run'</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four classes, one with a hostile name, with pictures, weights and an audit."""
    root = tmp_path_factory.mktemp("report")
    names = {"blue": "blue", "green": "green", "red": "red", "red2": '<b>&$x$ "it\'s"'}
    classes = list(names.values())
    for colour, name in names.items():
        (root / "images" / name).mkdir(parents=True)
        for i in range(10):
            tall = picture(colour.rstrip("2"), i, (30, 60) if i % 2 else (50, 40))
            tall.save(root / "images" / name / f"{i:02}.png")
    Image.new("RGB", (9, 9)).save(root / "secret.png")
    folder = make_run(root / "logs" / "tiny", made_up(classes, 40), classes, root / "images")
    net = VisionTransformer(Config.model_validate({"vit": TINY_VIT}).vit.concrete(len(classes)))
    net.classes = tuple(classes)
    save_model(root / "logs" / "w" / "tiny" / "best.safetensors", net)
    write_rows(
        folder / "audit.csv",
        ("path", "label", "suggested", "score", "more"),
        [["blue/00.png", "blue", "red", "0.93", "x"], ["../secret.png", "red", "", "", ""]],
    )
    unseen = [["train", *row[1:]] for row in made_up(classes, 40, seed=1, right=0.9)]
    write_rows(folder / "out_of_fold.csv", PREDICTED, unseen)
    layers = [[1, 0.3, 0.2, 0.5], [2, 0.85, 0.7, 0.95], [3, 0.9, 0.8, 0.97]]
    write_rows(folder / "layers.csv", LAYERS, layers)
    return with_certainty(folder)


def with_certainty(folder: Path, **changes: Any) -> Path:
    """The run as it says how sure its answers are; older versions don't."""
    known = {"temperature": 1.32, "temperature_by": "val", "val_calibration_error": 0.0512}
    known |= {"val_calibration_error_calibrated": 0.0308, "set_level": 0.25, "held_out": 40}
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"certainty": known | changes}))
    return folder


class Page:
    """A page in one size and scheme, with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1440, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *reason: object) -> None:
        self.context.close()

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def pages(run: Path) -> dict[str, Path]:
    """A report and a comparison with a run of a hostile name."""
    classes = read_run(run).classes
    other = run.parent / "<img src onerror=alert(1)>$x$"
    rows = made_up(classes, 40, seed=3, right=0.95)
    make_run(other, rows, classes, run.parents[1] / "images", lr=1e-3)
    out = run.parent / "compared.html"
    assert compare.main([str(run), str(other), "--out", str(out)]) == 0
    return {"report": report.write_report(run), "compare": out}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_is_whole_in_a_browser(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with Page(browser, pages[name], width, scheme) as page:
        images = page.run("[...document.images].map(i => [i.complete, i.naturalWidth, i.alt])")
        assert page.said == []
        assert {url.split(":")[0] for url in page.asked} <= {"file", "data"}
        assert page.asked[0] == pages[name].as_uri()
        assert sum(url.startswith("file") for url in page.asked) == 1
        assert all(complete and natural and alt for complete, natural, alt in images)
        assert (name == "report") == bool(images)
        over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.run(over) <= 0, "wider than the window"
        page.page.keyboard.press("Tab")
        assert page.run("document.activeElement.className") == "skip"
        assert page.run("document.activeElement.getBoundingClientRect().top") >= 0
        page.page.keyboard.press("Enter")
        assert page.run("document.activeElement.id") == "main"


@pytest.mark.parametrize("name", ["report", "compare"])
def test_names_from_outside_stay_text(browser: Any, pages: dict[str, Path], name: str) -> None:
    with Page(browser, pages[name]) as page:
        assert page.run("document.querySelectorAll('script, main b:not(.big b)').length") == 0
        assert page.run("document.querySelectorAll('[onerror]').length") == 0
        text = page.run("document.body.innerText + document.querySelector('main').textContent")
        hostile = '<b>&$x$ "it\'s"' if name == "report" else "<img src onerror=alert(1)>$x$"
        assert hostile in text
        drawn = page.run("[...document.querySelectorAll('svg text')].map(t => t.textContent)")
        assert name == "report" or hostile in drawn, "a legend's $ is no formula"


def test_a_script_in_a_name_does_not_run(browser: Any, tmp_path: Path) -> None:
    folder = without_curves(make_run(tmp_path / "run", made_up([EVIL, "b"], 12), [EVIL, "b"]))
    with Page(browser, report.write_report(folder)) as page:
        assert page.run("document.title").startswith("run: ")
        assert page.run("document.scripts.length") == 0
        assert EVIL in page.run("document.getElementById('matrix').textContent")
        # Were a name let through all the same, the page's policy would stop it.
        added = "const s = document.createElement('script'); s.text = 'window.ran = 1'"
        page.run(f"(() => {{ {added}; document.body.append(s) }})()")
        assert page.run("window.ran") is None


def test_the_matrix_holds_what_predictions_say(
    browser: Any, pages: dict[str, Path], run: Path
) -> None:
    with open(run / "predictions.csv", newline="") as file:
        counted = Counter((row["label"], row["predicted"]) for row in csv.DictReader(file))
    with Page(browser, pages["report"]) as page:
        columns = page.run("[...matrix.tHead.rows[0].cells].slice(1).map(c => c.textContent)")
        rows = page.run(
            "[...matrix.tBodies[0].rows].map(r => [r.cells[0].textContent,"
            " [...r.cells].slice(1).map(c => [c.querySelector('.n').textContent,"
            " c.querySelector('.p')?.textContent])])"
        )
    assert columns == [name for name, _ in rows] and set(columns) == {a for a, _ in counted}
    for label, cells in rows:
        images = sum(counted[label, other] for other in columns)
        for predicted, (number, share) in zip(columns, cells, strict=True):
            assert int(number) == counted[label, predicted]
            said = f"{100 * int(number) / images:.0f} %" if number != "0" else None
            assert share == said


CONTRASTS = """() => {
  const rgb = (c) => {
    const n = c.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    return c.startsWith("color(") ? [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1]
                                  : [n[0], n[1], n[2], n[3] ?? 1];
  };
  const light = (c) => { const f = c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
  const ground = (e) => {
    if (!e) return [255, 255, 255];
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] >= 1) return c;
    const below = ground(e.parentElement);
    return [0, 1, 2].map(i => c[i] * c[3] + below[i] * (1 - c[3]));
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const ink = rgb(e.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walk.currentNode.textContent.trim()]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["report", "compare"])
def test_every_text_can_be_read(
    browser: Any, pages: dict[str, Path], name: str, scheme: str
) -> None:
    with Page(browser, pages[name], scheme=scheme) as page:
        found = page.run(CONTRASTS)
    assert len(found) > 50
    # WCAG 2.2, 1.4.3: 4.5 to 1.
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


def test_pictures_keep_their_shape_inside_their_box(browser: Any, pages: dict[str, Path]) -> None:
    script = """[...document.querySelectorAll('.box img')].map(i => {
      const a = i.getBoundingClientRect(), b = i.parentElement.getBoundingClientRect();
      return [a.width <= b.width + 1 && a.height <= b.height + 1, getComputedStyle(i).objectFit,
              i.naturalWidth / i.naturalHeight]; })"""
    with Page(browser, pages["report"]) as page:
        found = page.run(script)
    assert found and all(inside and fit == "contain" for inside, fit, _ in found)
    assert {round(shape, 2) for _, _, shape in found} == {0.5, 1.25}, "30 x 60 and 50 x 40"


def test_what_is_drawn_is_named_and_what_scrolls_is_reached(
    browser: Any, pages: dict[str, Path]
) -> None:
    with Page(browser, pages["report"], width=390) as page:
        charts = page.run(
            "[...document.querySelectorAll('svg')].map(s => s.getAttribute('aria-label'))"
        )
        scrolls = page.run(
            "[...document.querySelectorAll('.scroll, pre')].map(e => [e.tabIndex, e.role,"
            " e.ariaLabel])"
        )
        links = page.run("[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
        there = page.run("[...document.querySelectorAll('section')].map(s => s.id)")
        ids = page.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(charts) == 10 and all(charts) and "Loss by epoch" in charts[0]
    assert scrolls and all(
        index == 0 and role == "region" and label for index, role, label in scrolls
    )
    assert links == there, "the contents are the sections, in their order"
    assert len(ids) == len(set(ids))


def shown(folder: Path, **options: Any) -> str:
    return unbroken(report.write_report(folder, **options))


def without_curves(folder: Path) -> Path:
    """They take most of a page's time."""
    (folder / "metrics.csv").unlink(missing_ok=True)
    return folder


def unbroken(page: Path) -> str:
    """A page's markup without the places where a name may be broken, or a number may not."""
    return page.read_text().replace("<wbr>", "").replace("\N{NO-BREAK SPACE}", " ")


def test_a_report_says_what_was_reached(pages: dict[str, Path], run: Path) -> None:
    page, said = unbroken(pages["report"]), json.loads((run / "summary.json").read_text())
    assert "Learned" in page and f"{said['val_accuracy']:.3f}" in page
    for what in ("logistic regression", "nearest neighbours", "shuffled labels", "chance"):
        assert what in page
    assert "w.safetensors" in page and "1,817,482 of 21,601,931" in page and "kept: epoch 3" in page
    assert "sgd, lr 0.006" in page and "2026-11-25 15:00" in page
    assert re.search(r"chosen[^<]*\".*0\.900", page), "the chosen setting of search.csv"
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_the_training_pictures_stand_beside(
    browser: Any, pages: dict[str, Path], run: Path
) -> None:
    """By fits that had not seen them, and what each block tells."""
    with open(run / "out_of_fold.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = sum(row["label"] != row["predicted"] for row in rows)
    with Page(browser, pages["report"]) as page:
        counts = page.run(
            "[...document.querySelectorAll('#unseen-matrix .n')].map(c => +c.textContent)"
        )
        said = page.run("unseen.textContent")
        assert sum(counts) == len(rows) == 40 and f"All wrong answers ({wrong})" in said
        assert f"accuracy {1 - wrong / 40:.3f} (" in said
        assert page.run("unseen.querySelectorAll('.thumbs li').length") == wrong
        layers = page.run("layers.textContent")
    assert (
        "block 2 is the first that tells the classes apart as well as any (best: block 3" in layers
    )


def test_a_network_that_learned_all_pictures_says_so(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "again")
    found = json.loads((folder / "summary.json").read_text())
    again = {"refit": {"images": 120, "parts": ["train", "val"]}, "refit_seconds": 3.0}
    (folder / "summary.json").write_text(json.dumps(found | again))
    page = shown(folder)
    assert "the same trained once more on all 120 pictures that are not test" in page
    assert "measured: epoch 3" in page and "kept: epoch 3" not in page
    assert "The curves are the class head's alone" not in page
    (folder / "summary.json").write_text(json.dumps(found | {"head": "both"}))
    assert "The curves are the class head's alone; the numbers above are of both" in shown(folder)


def test_it_looks_at_a_few_pictures_of_each_class(
    pages: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    page = unbroken(pages["report"])
    assert page.count('<div class="three">') == 8, "two of each of four classes"
    without = without_curves(shutil.copytree(run, tmp_path / run.name))
    assert "Where it looks" not in shown(without, looks=False)


def test_an_audit_is_shown_and_its_paths_stay_below_the_pictures(pages: dict[str, Path]) -> None:
    page = unbroken(pages["report"])
    part = page[page.index('id="labels"') : page.index('id="search"')]
    assert "red?" in part and "labelled blue" in part and "score 0.93" in part
    assert part.count("<img") == 1 and "picture not found" in part


def test_an_audit_beside_the_run_is_linked_and_its_wrong_labels_are_shown(tmp_path: Path) -> None:
    classes = ["a", "b"]
    folder = make_run(tmp_path / "logs" / "my run", made_up(classes, 12), classes)
    beside = tmp_path / "logs" / "audit-my run"
    beside.mkdir()
    (beside / "audit.html").touch()
    columns = ("path", "kind", "given", "suggested", "score", "group")
    rows = [["a/1.png", "label", "a", "b", "0.9", ""], ["b/2.png", "duplicate", "b", "", "1", "0"]]
    write_rows(beside / "audit.csv", columns, rows)
    page = shown(without_curves(folder))
    assert 'href="../audit-my%20run/audit.html"' in page
    assert "labelled a" in page and "the first 1 of 1" in page and "b/2.png" not in page
    write_rows(beside / "audit.csv", columns, rows[1:])
    page = shown(folder)
    assert 'href="../audit-my%20run/audit.html"' in page and "labelled a" not in page


def test_linked_and_oddly_named_pictures_are_found(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    odd = os.fsdecode(b"n\xe9\n.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / odd)
    (tmp_path / "secret.png").write_bytes((tmp_path / "elsewhere" / odd).read_bytes())
    found = below(tmp_path / "root", f"a/{text_of(odd)}")
    assert found is not None and small(found).size == (8, 8)
    for outside in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png"):
        assert below(tmp_path / "root", outside) is None


def test_without_weights_or_pictures_a_sentence_stands_there(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    rows = made_up(["a", "b"], 12)
    folder = make_run(tmp_path / "logs" / "one", rows, ["a", "b"], tmp_path / "images")
    without_curves(folder)
    assert "weights are gone" in shown(folder)
    (tmp_path / "logs" / "w" / "one").mkdir(parents=True)
    (tmp_path / "logs" / "w" / "one" / "best.safetensors").write_bytes(b"damaged")
    assert "The weights can&#39;t be used" in shown(folder)
    gone = without_curves(make_run(tmp_path / "logs" / "two", rows, ["a", "b"]))
    page = shown(gone)
    assert "none are shown" in page and "Where it looks" not in page


def test_runs_that_left_less(run: Path, tmp_path: Path) -> None:
    """An older version's, one that diverged, one that was stopped, a sanity check."""
    old = shutil.copytree(run, tmp_path / "old")
    (old / "predictions.csv").unlink()
    page = shown(old)
    assert "no predictions.csv" in page and "Learned" in page and 'id="matrix"' not in page

    diverged = shutil.copytree(old, tmp_path / "diverged")
    outcome = {"verdict": "not learned", "epochs": 2}
    sentence = "not learned: the loss is not finite at step 3"
    (diverged / "summary.json").write_text(json.dumps(outcome | {"verdict_sentence": sentence}))
    page = shown(diverged)
    assert "Not learned" in page and "The loss is not finite at step 3." in page

    (diverged / "summary.json").unlink()
    page = shown(diverged)
    assert "Not finished" in page and "4 epochs done" in page
    assert f"python training.py --resume {diverged}" in page

    check = {"mode": "finetune", "overfit": "PASS", "steps": 40, "loss": 0.009, "accuracy": 1.0}
    (diverged / "summary.json").write_text(json.dumps(check))
    page = shown(diverged)
    assert "Sanity check: passed" in page and "Loss by step" in page
    (diverged / "metrics.csv").unlink()
    (diverged / "summary.json").write_text(json.dumps(check | {"overfit": "FAIL"}))
    assert "Sanity check: failed" in shown(diverged)


def test_where_there_is_a_test_part_it_is_what_is_shown(tmp_path: Path) -> None:
    rows = made_up(["a", "b"], 20, right=1)
    held = [["test", *row[1:3], "b", *row[4:]] for row in rows]
    folder = make_run(tmp_path / "run", [*rows, *held], ["a", "b"])
    record = read_run(folder)
    assert record.part == "test" and len(record.predictions) == 20
    assert record.confusion().tolist() == [[0, 10], [0, 10]]
    assert "The confusion matrix of the test part" in shown(folder)


def test_damaged_files_become_notes(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "damaged")
    (folder / "config.yaml").write_text("train: {no_such_key: <i>}\n")
    (folder / "summary.json").write_text("{")
    (folder / "metrics.csv").write_text("epoch,lr\none,two\n")
    (folder / "predictions.csv").write_text("part,path\nval,x\n")
    (folder / "search.csv").write_text("lr\nfast\n")
    (folder / "layers.csv").write_text("block\nfirst\n")
    (folder / "out_of_fold.csv").write_text("part,path\ntrain,x\n")
    page = shown(folder)
    names = ("summary.json", "metrics.csv", "predictions.csv", "search.csv", "layers.csv")
    for name in (*names, "out_of_fold.csv"):
        assert f"{name} can&#39;t be read" in page
    assert "no such key" in page and "{no_such_key: &lt;i&gt;}" in page


def test_what_is_no_run_is_one_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    assert find_run("tiny") == Path("logs/tiny") and find_run("last").parent == Path("logs")
    with pytest.raises(UserError, match="did you mean tiny?"):
        find_run("tini")
    with pytest.raises(UserError, match="is not a run: it has no config.yaml"):
        find_run(str(tmp_path))
    with pytest.raises(UserError, match="2 to 8 different runs, and got 1"):
        compare.main(["tiny", "logs/tiny"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run yet"):
        find_run("last")


def test_the_exit_status_of_what_is_no_run(tmp_path: Path, capsys: Any) -> None:
    from utils import command_line

    assert command_line(lambda: report.main([str(tmp_path)])) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_thousand_classes(browser: Any, tmp_path: Path) -> None:
    classes = [f"class {i:04}" for i in range(1000)]
    folder = make_run(tmp_path / "many", made_up(classes, 20_000, right=0.7), classes)
    path = report.write_report(without_curves(folder))
    assert path.stat().st_size < 2_000_000
    with Page(browser, path, width=390) as page:
        assert page.run("document.documentElement.scrollWidth") <= 390
        heat = page.run("(i => [i.naturalWidth, i.naturalHeight])(document.querySelector('.heat'))")
        box = page.run("(i => [i.clientWidth, i.clientHeight])(document.querySelector('.heat'))")
        assert abs(box[0] - box[1]) <= 1, "as wide as high"
        open_rows = "document.querySelectorAll('#classes > .scroll tbody tr').length"
        closed = "document.querySelectorAll('#classes details:not([open]) tbody tr').length"
        assert heat == [500, 500] and page.run("document.getElementById('matrix')") is None
        assert (page.run(open_rows), page.run(closed)) == (20, 980)
        assert page.run("document.querySelectorAll('#confusion tbody tr').length") == 15


def test_no_class_is_left_out_of_the_looks() -> None:
    given = [answer("a", "a", p) for p in (0.9, 0.8, 0.7)] + [answer("b", "a")] * 3
    chosen = pictures.chosen_for_looks(given)
    assert [p.label for p in chosen] == ["b", "a", "b", "a"], "in turn, the most mistakes first"
    assert chosen[1].probability == 0.8, "a usual one, not the surest"


def test_each_class_is_shown_in_turn_and_what_is_cut_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = without_curves(shutil.copytree(run, tmp_path / run.name))
    monkeypatch.setattr("tools.report.page.LOOKS_MOST", 6)
    config = (folder / "config.yaml").read_text()
    weights = str(run.parents[1] / "logs" / "w")
    assert weights in config
    page = shown(folder)
    assert page.count('<div class="three">') == 6
    assert "in turn. It was cut at 6 pictures: of some classes there is one picture only." in page
    monkeypatch.setattr("tools.report.page.LOOKS_MOST", 3)
    assert "It was cut at 3 pictures: 3 of 4 classes are shown." in shown(folder)
    monkeypatch.setattr("tools.report.pictures.LOOKS_SECONDS", -1.0)
    monkeypatch.setattr("tools.report.page.LOOKS_SECONDS", 20.0)
    assert "Where it looks" not in shown(folder), "none was begun"


def test_no_class_is_left_out_of_a_cut() -> None:
    """Thirty classes, of which each is shown before one is shown twice."""
    given = [answer(f"c{i:02}", f"c{i:02}") for i in range(30) for _ in range(5)]
    chosen = pictures.chosen_for_looks(given)
    assert len({p.label for p in chosen[:30]}) == 30 and len(chosen) == 60


@pytest.mark.parametrize(
    ("images", "right", "sure", "said"),
    [
        (200, 0.9, 0.9, "It is as sure as it is right, on average: 0.900 sure, and right 0.900"),
        (200, 0.9, 0.99, "It is too sure of itself: 0.990 sure"),
        (200, 0.9, 0.5, "It is less sure than it could be: 0.500 sure"),
        (
            10,
            0.9,
            0.9,
            "10 pictures are too few to say whether it is as sure as it is right: it is",
        ),
        (2, 1.0, 0.6, "2 pictures are too few to say whether it is as sure as it is right: it is"),
        (1, 1.0, 0.6, "1 picture is too few to say"),
        (10, 0.0, 0.99, "It is too sure of itself: 0.990 sure, and right 0.000 of the time (0.000"),
    ],
)
def test_few_pictures_do_not_say_how_sure_it_is(
    images: int, right: float, sure: float, said: str
) -> None:
    """But where the interval is wide and it is outside of it all the same."""
    given = [answer("a", "a" if i < right * images else "b", sure) for i in range(images)]
    assert calibrated(given)["sentence"].startswith(said)
    assert ("calibration error" in calibrated(given)["sentence"]) == ("too few" not in said)


def section(page: str, name: str) -> str:
    """The text of a section, without its markup and its drawings."""
    part = page[page.index(f'id="{name}"') :]
    part = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", part[: part.index("</section>")], flags=re.DOTALL)
    return " ".join(html.unescape(part).split())


def test_what_answering_only_when_sure_would_mean(pages: dict[str, Path], run: Path) -> None:
    """The sentence, counted again."""
    with open(run / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    said = section(unbroken(pages["report"]), "calibration")
    found = re.search(
        r"Were only the surest (\d+) of 40 pictures \((\d+) %\) answered, those of a probability "
        r"of (0\.\d+) or more, (\d+) would be wrong \(([\d.]+) %\); of all, (\d+) are wrong",
        said,
    )
    assert found is not None
    kept = [row for row in rows if float(row["probability"]) >= float(found[3])]
    wrong = sum(row["label"] != row["predicted"] for row in kept)
    assert (int(found[1]), int(found[4])) == (len(kept), wrong)
    assert found[2] == f"{100 * len(kept) / 40:.0f}" and abs(len(kept) / 40 - 0.9) <= 0.05
    assert found[5] == f"{100 * wrong / len(kept):.1f}"
    assert int(found[6]) == sum(row["label"] != row["predicted"] for row in rows)


def test_probabilities_are_said_to_be_calibrated(pages: dict[str, Path], run: Path) -> None:
    page = unbroken(pages["report"])
    said = section(page, "calibration")
    assert (
        "The probabilities are calibrated: the network's logits are divided by a temperature of "
        "1.32, found on the validation part."
    ) in said
    assert "is 0.051 before and 0.031 after it, each picture's temperature fitted to the" in said
    assert "of 40 pictures that is a rough number" in said
    assert said.count("alibration error") == 1, "of the same part there is one, not two"
    assert "the classes of a probability of 0.25 or more" in said and "sets" not in said
    drawn = page[page.index('id="calibration"') : page.index('id="mistakes"')]
    assert drawn.count("confidence (calibrated probability of the answer)") == 2
    assert "Reliability diagram of calibrated probabilities" in drawn
    assert "Risk by coverage: of all answers" in drawn
    others = page[page.index('id="unseen"') : page.index('id="layers"')]
    assert "confidence (calibrated" not in others and "Expected calibration error" in others


@pytest.mark.parametrize("known", [None, 5, {"temperature": "hot"}, {"temperature": 1.3}])
def test_an_older_run_says_nothing_of_a_temperature(run: Path, tmp_path: Path, known: Any) -> None:
    folder = without_curves(shutil.copytree(run, tmp_path / "old"))
    summary = json.loads((folder / "summary.json").read_text()) | {"certainty": known}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = shown(folder, looks=False)
    said = section(page, "calibration")
    assert "temperature" not in said and "Were only" not in said
    assert "Expected calibration error" in said and "calibrated" not in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"temperature_by": "the training pictures, out of fold", "temperature": 0.7},
            "temperature of 0.7, found on the training pictures, out of fold. The val",
        ),
        (
            {"temperature_by": "the training pictures, out of fold", "temperature": 1.0},
            "those of the network, which was made as sure as it is right on the training pictures",
        ),
        (
            {"temperature_by": "nothing", "temperature": 1.0, "held_out": 4},
            "the network's, not calibrated: the validation part's 4 pictures are too few to find a",
        ),
        ({"set_level": 0.0}, "would hold every class: the held-out pictures are too few"),
    ],
)
def test_how_a_temperature_was_found(
    run: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = without_curves(shutil.copytree(run, tmp_path / "run"))
    said = section(shown(with_certainty(folder, **changes), looks=False), "calibration")
    assert words in said and "fitted to the others" not in said or "set_level" in changes


def test_of_few_folds_a_temperature_is_rough(run: Path, tmp_path: Path) -> None:
    folder = without_curves(shutil.copytree(run, tmp_path / "run"))
    with_certainty(folder, temperature_by="the training pictures, out of fold", temperature=1.0)
    summary = json.loads((folder / "summary.json").read_text())
    for learned, words in ((29, "out of fold (29: roughly). The"), (30, "out of fold. The")):
        images = {"train": learned, "val": 40}
        (folder / "summary.json").write_text(json.dumps(summary | {"images": images}))
        assert words in section(shown(folder, looks=False), "calibration")


def test_of_few_pictures_no_block_is_the_first(run: Path, tmp_path: Path) -> None:
    folder = without_curves(shutil.copytree(run, tmp_path / "run"))
    write_rows(folder / "layers.csv", LAYERS, [[1, 0.75, 0.3, 0.95], [2, 0.5, 0.2, 0.8]])
    said = section(shown(folder, looks=False), "layers")
    assert (
        "too few pictures to say which block first tells the classes apart (best: block 1, 0.750, "
        "0.300 to 0.950)." in said
    )


def test_the_sets_of_a_test_part_are_counted(tmp_path: Path) -> None:
    rows = made_up(["a", "b"], 40)
    held = [["test", *row[1:]] for row in made_up(["a", "b"], 200, seed=2, right=0.6)]
    folder = with_certainty(make_run(tmp_path / "run", [*rows, *held], ["a", "b"]))
    said = section(shown(without_curves(folder)), "calibration")
    n = sum(row[2] == row[3] or row[5] >= 0.25 for row in held)
    assert f"of the test part's sets {n} of 200 ({n / 2:.1f} %) do." in said
    assert "The validation part's expected calibration error" in said
    assert said.count("alibration error") == 2, "of the validation part, and of this one"
    errors = {"test_calibration_error": 0.2, "test_calibration_error_calibrated": 0.1}
    said = section(shown(with_certainty(folder, **errors)), "calibration")
    assert "The test part's expected calibration error" in said
    assert "is 0.200 before and 0.100 after it. It is" in said, "no rough number is said of none"
    assert said.count("alibration error") == 1


def given(*sure: tuple[float, bool]) -> list[Prediction]:
    return [answer("a", "a" if right else "b", p) for p, right in sure]


def test_no_sentence_where_it_would_say_nothing() -> None:
    many = [(0.5 + i / 100, True) for i in range(40)]
    assert surest(given(*many)) is None, "none is wrong"
    assert surest(given(*many[:20], (0.4, False))) is None, "few pictures"
    tied = surest(given(*[(0.9, True)] * 30, *[(0.6, False)] * 10))
    assert tied is not None and tied["sentence"] is None, "no threshold leaves nine in ten"
    assert len(tied["charts"]) == 1
    one = surest(given(*many, (0.4, False), (0.3, True)))
    assert one is not None and "none would be wrong; of all, 1 is wrong (2.4 %)." in one["sentence"]


def test_a_threshold_that_gains_nothing_says_so() -> None:
    sure = surest(given(*[(0.99 - i / 100, i > 3) for i in range(40)]))
    assert sure is not None
    assert (
        "4 would be wrong (11.1 %); of all, 4 are wrong (10.0 %). So the mistakes are not"
        in (sure["sentence"])
    )


@pytest.mark.parametrize(
    ("train", "there"),
    [
        ({"label_smoothing": 0.1}, True),
        ({"label_smoothing": 0.0}, False),
        ({"label_smoothing": 0.1, "class_weights": "balanced"}, False),
        ({"label_smoothing": 0.1, "mixup": 0.2}, False),
    ],
)
def test_where_a_training_loss_ends_is_explained(
    tmp_path: Path, train: dict[str, Any], there: bool
) -> None:
    options = {"mixup": 0.0, "cutmix": 0.0} | train
    folder = make_run(tmp_path / "run", made_up(list("abcde"), 20), list("abcde"), **options)
    said = (
        "Labels are smoothed by 0.1 in training, so for 5 classes the training loss ends at 0.390"
    )
    assert shown(folder).count(said) == 2 * there, "beside the scores and the curves"
    summary = json.loads((folder / "summary.json").read_text()) | {"head": "both"}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = shown(folder)
    assert page.count(said) == there, "that row is of plain pictures then"
    assert "of the plain pictures that the head over layers was fitted to" in page


LINES = """(selector) => [...document.querySelectorAll(selector)].flatMap(e => {
  const range = document.createRange(); range.selectNodeContents(e);
  const tops = [...range.getClientRects()].filter(r => r.width).map(r => Math.round(r.top));
  return new Set(tops).size > 1 ? [e.textContent] : []; })"""


@pytest.mark.parametrize("width", SIZES)
def test_the_settings_tried_stand_in_lines_without_empty_cells(
    browser: Any, pages: dict[str, Path], width: int
) -> None:
    with Page(browser, pages["report"], width) as page:
        broken = page.page.evaluate(LINES, "#search td, #search tbody th")
        empty = page.run(
            "[...document.querySelectorAll('#search td, #search th')]"
            ".filter(c => ['', '–'].includes(c.textContent.trim())).length"
        )
        chosen = page.run("document.querySelector('#search .chosen').innerText.split('\\t')")
        over = page.run(
            "(e => e.scrollWidth - e.clientWidth)(document.querySelector('#search .scroll'))"
        )
    assert (broken, empty, over) == ([], 0, 0)
    assert chosen == ["0.1 ✓ chosen", "9", "0.900", "1.000"]


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("name", ["report", "compare"])
def test_no_number_is_broken_in_lines(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    """Nor an interval, nor a number and its unit; but two that are too long for a phone's line."""
    script = r"""() => {
      const found = [], n = "\\d[\\d,.]*", units = "%|s|min|pictures|train|val";
      const number = new RegExp(`${n}( (to|of) ${n})*( (${units}))?`, "g");
      const alone = new RegExp(n, "g");
      const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
      while (walk.nextNode()) {
        const node = walk.currentNode, text = node.textContent.replaceAll('\u00a0', ' ');
        if (node.parentElement.closest('svg, pre, .path, code')) continue;
        for (const hit of [...text.matchAll(number), ...text.matchAll(alone)]) {
          if (hit[0].length > 22) continue;
          const range = document.createRange();
          range.setStart(node, hit.index); range.setEnd(node, hit.index + hit[0].length);
          const tops = [...range.getClientRects()].filter(r => r.width).map(r => Math.round(r.top));
          if (new Set(tops).size > 1) found.push(hit[0]);
        }
      }
      return found; }"""
    with Page(browser, pages[name], width) as page:
        assert page.page.evaluate(script) == []


def test_colours_are_the_pages_own(pages: dict[str, Path]) -> None:
    """No colour of a chart is fixed, or it could not be read on dark."""
    charts = re.findall(r"<svg class=\"chart\".*?</svg>", unbroken(pages["report"]), re.DOTALL)
    assert len(charts) == 10
    for chart in charts:
        assert not re.findall(r"(?:fill|stroke): #\w+", chart)
        assert "var(--hit)" in chart and "var(--muted)" in chart
