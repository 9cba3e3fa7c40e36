"""The YAML that says which posts a set is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import REPO
from tools.draw_pilots.cast import NAMES
from tools.safebooru.post import Post
from tools.safebooru.wanted import PILOTS, Wanted, read_wanted
from utils import UserError


def read(folder: Path, text: str) -> Wanted:
    file = folder / "wanted.yaml"
    file.write_text(text, encoding="utf-8")
    return read_wanted(file)


def post(*tags: str, rating: str = "safe") -> Post:
    return Post(1, "images/1/x.jpg", "0" * 32, tags, rating, "")


def test_the_pilots_are_the_default() -> None:
    """Under the names of the drawn ones, whose place they take."""
    wanted = read_wanted(PILOTS)
    assert sorted(wanted.classes) == sorted(NAMES)
    query = wanted.query("ayanami_rei").split()
    assert query[:2] == ["ayanami_rei", "solo"] and "-comic" in query
    assert wanted.refusal("ayanami_rei", post("ayanami_rei", "solo")) is None
    for tag in ("comic", "monochrome", "multiple_views", "ikari_shinji"):
        reason = wanted.refusal("ayanami_rei", post("ayanami_rei", "solo", tag))
        assert reason and reason.endswith(tag)
    assert wanted.refusal("ayanami_rei", post("ayanami_rei")) == "lacks a tag: solo"
    assert wanted.refusal("ayanami_rei", post("ayanami_rei", "solo", rating="explicit"))


def test_words_stay_words(tmp_path: Path) -> None:
    """YAML reads no, 2024 and 1_000 as other things."""
    wanted = read(tmp_path, "classes: {no: no, '2024': 2024, big: [1_000, on]}\n")
    assert wanted.classes == {"no": ("no",), "2024": ("2024",), "big": ("1_000", "on")}
    assert wanted.query("big") == "1_000 on" and wanted.refusal("no", post("no")) is None


def test_a_class_of_two_tags_and_one_of_them() -> None:
    wanted = Wanted({"both": ("a", "b"), "c": ("c",)})
    assert wanted.refusal("both", post("a", "b")) is None
    assert wanted.refusal("both", post("a")) == "lacks a tag: b"
    assert wanted.refusal("c", post("c", "a")) is None  # not of both's two
    assert wanted.refusal("c", post("c", "a", "b")) == "another class as well: both"


def test_every_fault_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(
            tmp_path,
            "classes: {a/b: x, ..: y, one: rei, two: rei, none: [], 'CON ': z}\n"
            "want: [long hair, -solo, {a: b}]\nrefuse: [x]\nrefused: [y]\n",
        )
    text = str(caught.value)
    for fault in (
        "classes.a/b: no name for a folder",
        "classes...: no name for a folder",
        "classes.two: the same tags as one",
        "classes.none: a class needs a tag",
        "classes.CON : no name",
        "want: 'long hair' has blanks; boards write long_hair",
        "want: -solo is a search",
        "want: tags are words",
        "refuse: x is wanted, too",
        "refused: no such key; did you mean refuse?",
    ):
        assert fault in text, fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected the keys classes"),
        ("- a\n", "expected the keys classes"),
        ("want: [a]\n", "classes: a list of tags"),
        ("classes: []\n", "classes: a list of tags"),
        ("classes: [a, b\n", "line 2: not valid YAML"),
        ("classes: {a: b, a: c}\n", "a stands there twice"),
        ("classes: [fate/stay_night]\n", "write `folder: tag`"),
        ("classes: [a]\nclasses: [b]\n", "classes stands there twice"),
        ("classes: [" * 2000, "not valid YAML"),
        ("? [a]\n: b\n", "not valid YAML|expected"),
        ("classes: &a [*a]\n", "not valid YAML|words"),
        ("x: \x07", "not valid YAML"),
    ],
)
def test_what_is_no_such_page(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        read(tmp_path, text)


def test_the_recipe_s_page_is_one(tmp_path: Path) -> None:
    page = (REPO / "docs/recipes.md").read_text(encoding="utf-8").split("```yaml\n")[1]
    assert sorted(read(tmp_path, page.split("```")[0]).classes) == ["azusa", "mio", "yui"]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; .*pilots\.yaml is one to copy"):
        read_wanted(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="can't be read"):
        read_wanted(tmp_path)
