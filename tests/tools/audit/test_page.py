"""The audit's page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit.findings import Suspect
from layout.decisions import Decision, read_decisions, write_decisions
from tests.tools.audit.helpers import audited, findings_of, set_of
from tests.tools.audit.test_apply import contents
from tests.tools.test_report import CONTRASTS, SCHEMES, SIZES, Page
from tools.audit import __main__ as audit
from tools.audit import page as made
from tools.audit.about import read_about
from tools.audit.page import chosen, embedded, kinds, write_page
from utils import shell

EVIL = """</script><img src=x onerror=window.ran=1>"'&,\u2028"""
CURRENT = "document.querySelector('[aria-current]')?.dataset.path"
SHOWN = (
    "[...document.querySelectorAll('.card')].filter(c => c.offsetParent).map(c => c.dataset.path)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("audited")
    return audited(home, set_of(home / "my pets"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hostile")
    name = EVIL.replace("/", "\\x2f")  # as a folder may be called
    root = set_of(home / "pictures", {"blue": name, "green": "green", "red": "__proto__"})
    return audited(home, root)


def downloaded(page: Page, file: Path) -> Path:
    with page.page.expect_download() as caught:
        page.page.click("#download")
    assert caught.value.suggested_filename == "decisions.csv"
    caught.value.save_as(file)
    return file


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", SIZES)
def test_the_page_is_whole_and_legible(browser: Any, folder: Path, width: int, scheme: str) -> None:
    with Page(browser, folder / "audit.html", width, scheme) as page:
        page.page.keyboard.press("x")
        images = page.run("[...document.images].map(i => [i.complete, i.naturalWidth, i.alt])")
        assert page.said == [] and images
        assert all(complete and natural and alt for complete, natural, alt in images)
        assert sum(not url.startswith("data:") for url in page.asked) == 1
        over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.run(over) <= 0, "wider than the window"
        low = [(ratio, text) for ratio, text in page.run(CONTRASTS) if ratio < 4.5]
        assert not low


def test_filter_decide_by_key_download_apply_undo(
    browser: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = audited(tmp_path, set_of(tmp_path / "my pets"))
    before = contents(tmp_path / "my pets")
    with Page(browser, folder / "audit.html") as page:
        page.page.click("[data-kind=label]")
        assert page.run(SHOWN) == ["train/blue/00.png", "train/green/00.png"]
        for key in ("Enter", "3"):
            page.page.keyboard.press(key)
        page.page.click("[data-kind=leak]")
        page.page.keyboard.press("ArrowRight")
        page.page.keyboard.press("x")
        assert page.run("count.textContent").startswith("3 of 6 decided")
        file = downloaded(page, tmp_path / "decisions.csv")
        said = page.run("[...document.querySelectorAll('#after pre')].map(p => p.textContent)")
    assert read_decisions(file) == {
        "train/blue/00.png": Decision("relabel", "green"),
        "train/green/00.png": Decision("relabel", "red"),
        "val/blue/02.png": Decision("leave out"),
    }
    program, *words = shlex.split(said[0])[1:]
    assert (program, words[0]) == ("-m", "tools.audit")
    assert audit.main(words[1:]) == 0
    moved = contents(tmp_path / "my pets")
    assert moved["train/red/00-2.png"] == before["train/green/00.png"]
    assert "val/blue/02.png" not in moved
    back = re.search(r"--undo (.*)", capsys.readouterr().out)
    assert back and audit.main(["--undo", *shlex.split(back[1])]) == 0
    assert contents(tmp_path / "my pets") == before


def test_keys_move_keep_and_undo(browser: Any, folder: Path) -> None:
    with Page(browser, folder / "audit.html") as page:
        first, second, third = page.run(SHOWN)[:3]
        press = page.page.keyboard.press
        assert page.run(CURRENT) == first
        press("ArrowLeft")
        assert page.run(CURRENT) == first
        press("ArrowRight")
        assert page.run(CURRENT) == second
        press("ArrowLeft")
        press("k")
        press("2")  # its own class: kept
        assert page.run(CURRENT) == third
        decided = (
            "[...document.querySelectorAll('.decision:not([hidden])')].map(d => d.textContent)"
        )
        assert page.run(decided) == ["kept as it is"] * 2
        press("u")
        assert page.run(CURRENT) == second and page.run(decided) == ["kept as it is"]
        press("Control+x")
        press("9")
        press("q")
        assert page.run(decided) == ["kept as it is"]
        press("u")
        press("u")
        assert page.run(decided) == [] and page.run("undo.disabled && download.disabled")


def test_decisions_outlive_the_page_and_are_this_audit_s(browser: Any, folder: Path) -> None:
    with Page(browser, folder / "audit.html") as page:
        page.page.keyboard.press("x")
        page.page.reload()
        assert page.run("count.textContent").startswith("1 of 6")
        assert page.run("document.querySelector('.decided').dataset.path") == "train/blue/00.png"
        assert page.run("Object.keys(localStorage)") == [f"audit:{read_about(folder).id}"]


def test_two_tabs_lose_nothing(browser: Any, folder: Path) -> None:
    with Page(browser, folder / "audit.html") as page:
        other = page.page.context.new_page()
        other.goto((folder / "audit.html").as_uri())
        page.page.keyboard.press("x")
        other.wait_for_function("document.querySelectorAll('.decided').length === 1")
        other.keyboard.press("ArrowRight")
        other.keyboard.press("k")
        page.page.wait_for_function("document.querySelectorAll('.decided').length === 2")
        page.page.reload()
        assert page.run("count.textContent").startswith("2 of 6")


def test_the_file_has_what_the_run_s_labels_decided_before(browser: Any, tmp_path: Path) -> None:
    root = set_of(tmp_path / "pets")
    first, left = "train/blue/00.png", "train/red/01.png"
    before = {first: Decision("relabel", "red"), left: Decision("leave out")}
    write_decisions(tmp_path / "before.csv", before)
    own = [f"train.base_dir={root}", f"train.labels={tmp_path / 'before.csv'}"]
    page_file = write_page(tmp_path, findings_of(root), overrides=own)
    with Page(browser, page_file) as page:
        page.page.keyboard.press("k")
        page.page.keyboard.press("x")
        found = read_decisions(downloaded(page, tmp_path / "d.csv"))
    assert found == before | {"train/green/00.png": Decision("leave out")}


def test_a_picture_that_training_leaves_out_is_shown(browser: Any, tmp_path: Path) -> None:
    findings = findings_of(set_of(tmp_path / "pets"))
    unused = "val/blue/unused.png"
    shutil.copy(findings.root / "val/blue/02.png", findings.root / unused)
    leak = Suspect(unused, "leak", "blue", None, 1.0, None, "val", "left out")
    page_file = write_page(tmp_path, replace(findings, suspects=(*findings.suspects, leak)))
    with Page(browser, page_file) as page:
        shown = "document.querySelector(\"[data-path='{}'] > .box img\")?.naturalWidth ?? 0"
        assert page.run(shown.format(unused)) > 0
        assert page.run(shown.format("train/blue/broken.png")) == 0
        assert page.run("document.querySelector('[data-kind=label]').textContent") == "maybe wrong2"


def test_filters_and_copies_side_by_side(browser: Any, folder: Path) -> None:
    with Page(browser, folder / "audit.html") as page:
        page.page.select_option("#part", "val")
        assert page.run(SHOWN) == ["train/blue/01.png", "val/blue/02.png", "val/green/02.png"]
        tops = "[...document.querySelectorAll('.copies .card')].map(c => c.offsetTop)"
        assert len(set(page.run(tops))) == 1
        page.page.select_option("#given", "green")
        assert page.run(SHOWN) == ["val/green/02.png"]
        page.page.check("#open")
        page.page.keyboard.press("x")
        assert page.run(SHOWN) == [] and page.page.is_visible("#none")
        page.page.select_option("#part", "")
        assert page.run(SHOWN) == ["train/green/00.png"]
        page.page.keyboard.press("u")
        assert page.run(CURRENT) == "val/green/02.png"


def test_by_touch_alone(browser: Any, folder: Path) -> None:
    with Page(browser, folder / "audit.html", 390) as page:
        page.page.click(".card:nth-of-type(1) button.strong")
        page.page.select_option(".card:nth-of-type(2) select", label="red")
        page.page.click("#undo")
        decided = (
            "[...document.querySelectorAll('.decision:not([hidden])')].map(d => d.textContent)"
        )
        assert page.run(decided) == ["→ green"]


def test_a_click_on_the_map_shows_the_card(browser: Any, folder: Path) -> None:
    with Page(browser, folder / "audit.html") as page:
        page.page.click("[data-kind=unreadable]")
        values = json.loads(page.run("data.textContent"))
        rows = [values["pictures"][str(i)] for i in values["dots"]]
        wanted = next(row for row in rows if row[0] == "val/green/02.png")
        x, y = (
            (wanted[k] - min(r[k] for r in rows))
            / (max(r[k] for r in rows) - min(r[k] for r in rows))
            for k in (3, 4)
        )
        page.page.locator("#board").scroll_into_view_if_needed()
        size = page.page.locator("canvas").bounding_box()
        at = {
            "x": 16 + x * (size["width"] - 34),
            "y": size["height"] - 17 - y * (size["height"] - 34),
        }
        page.page.hover("canvas", position=at)
        assert "val/green/02.png" in page.run("tip.textContent")
        assert page.run("tip.querySelector('img').naturalWidth") > 0
        page.page.click("canvas", position=at)
        assert page.run(CURRENT) == "val/green/02.png"


def test_hostile_names_stay_text(browser: Any, hostile: Path, tmp_path: Path) -> None:
    name = EVIL.replace("/", "\\x2f")
    with Page(browser, hostile / "audit.html") as page:
        assert page.said == [] and page.run("window.ran") is None
        assert page.run("document.scripts.length") == 2
        assert page.run("document.querySelectorAll('[onerror]').length") == 0
        assert name in page.run("document.getElementById('legend').textContent")
        page.page.select_option("#part", "train")
        for key in ("ArrowRight", "1", "x"):
            page.page.keyboard.press(key)
        # Were a script let through all the same, the page's policy would stop it.
        added = "const s = document.createElement('script'); s.text = 'window.ran = 1'"
        page.run(f"(() => {{ {added}; document.body.append(s) }})()")
        assert page.run("window.ran") is None
        text = downloaded(page, tmp_path / "d.csv").read_text(encoding="utf-8")
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert found[0] == ["path", "decision", "label"] and all(len(row) == 3 for row in found)
    assert any(row[1:] == ["relabel", name] for row in found), "quoted right"


def test_json_in_a_script_ends_nothing() -> None:
    values = {"a": "</script><!--&", "b": "\u2028"}
    text = str(embedded(values))
    assert not set("<>&") & set(text) and json.loads(text) == values


def test_nothing_found_and_nothing_measured(browser: Any, tmp_path: Path) -> None:
    root = set_of(tmp_path / "pets")
    folder = audited(tmp_path, root, suspects=(), said=(), noise=(), sizes=())
    with Page(browser, folder / "audit.html", 390) as page:
        assert page.said == []
        assert "Nothing that you should look at" in page.run("found.textContent")
        assert page.run("document.getElementById('suspects')") is None


def suspects_of(kind: str, scores: list[float], group: int | None = None) -> list[Suspect]:
    return [Suspect(f"{kind}{i}", kind, "a", None, s, group) for i, s in enumerate(scores)]


def test_the_worst_of_each_kind_are_shown_and_copies_stay_together() -> None:
    many = suspects_of("label", [0.1 * i for i in range(10)])
    many += suspects_of("duplicate", [0.9, 0.99], 4) + suspects_of("duplicate", [0.95], 5)
    shown = chosen(many, most=5)
    assert [(s.kind, s.score) for s in shown] == [
        ("label", 0.9),
        ("label", pytest.approx(0.8)),
        ("duplicate", 0.9),
        ("duplicate", 0.99),
        ("duplicate", 0.95),
    ]
    assert [(k["kind"], k["count"], k["shown"]) for k in kinds(many, shown)] == [
        ("label", 10, 2),
        ("duplicate", 3, 3),
    ]
    assert "5 of 13 are shown" in str(made.cut(many, shown)) and made.cut(many, many) is None


def test_what_the_page_says_to_run(tmp_path: Path) -> None:
    root = set_of(tmp_path / "my pets")
    folder = tmp_path / "logs" / "audit-x"
    findings = findings_of(root)
    write_page(folder, findings, run=Path("logs/my run"), overrides=["train.seed=1"])
    about = read_about(folder)
    assert (about.run, about.root) == (Path("logs/my run").absolute(), root)
    said = made.commands(about)
    assert said["apply"].endswith(f"--apply decisions.csv --root '{root}'")
    assert f"'train.from_run={about.run}' train.seed=1 train.labels=decisions.csv" in said["train"]
    assert said["train"].endswith("train.on_bad_image=skip")
    write_page(folder, findings, config=Path("c.yaml"), overrides=["train.base_dir=a b"])
    said = made.commands(read_about(folder))
    config = shell("--config", str(Path("c.yaml").absolute()))
    assert f"{config} 'train.base_dir=a b' train.labels=decisions.csv" in said["train"]
