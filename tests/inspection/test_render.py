"""How numbers and names stand in the lines of a page."""

from __future__ import annotations

import pytest

from inspection.render import firm, soft


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("weights/vit-s14.safetensors", "weights/|vit-|s14.|safetensors"),
        ("sgd, lr 0.006, weight decay 1e-05", "sgd, lr 0.006, weight decay 1e-05"),
        ("my_pictures-20261126-081500", "my_|pictures-|20261126-081500"),
        ("torch 2.14.0", "torch 2.14.0"),
        ("0.5.png", "0.5.|png"),
        ("a.1/b-2", "a.|1/|b-|2"),
    ],
)
def test_names_may_be_broken_and_numbers_may_not(name: str, shown: str) -> None:
    assert soft(name).replace("<wbr>", "|") == shown


def test_a_name_stays_text() -> None:
    assert soft("<b>_x") == "&lt;b&gt;_<wbr>x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("accuracy 0.960 (0.939 to 0.974), 95 %", "accuracy 0.960 (0.939~to~0.974), 95~%"),
        ("12 s of training, 1.5 min for it", "12~s of training, 1.5~min for it"),
        ("480 train, 1,120 val", "480~train, 1,120~val"),
        ("100 of 1,000 pictures", "100~of~1,000~pictures"),
        ("1,817,482 of 21,601,931", "1,817,482 of 21,601,931"),
        ("test, p = 0.031, or p < 0.001", "test, p~=~0.031, or p~<~0.001"),
        ("0.996 ± 0.009", "0.996~±~0.009"),
        ("2026-11-25 15:00", "2026-11-25~15:00"),
        ("2 sides of 3 things", "2 sides of 3 things"),
        ("block 2 on, 5 minutes", "block 2 on, 5 minutes"),
    ],
)
def test_a_number_stays_with_its_unit_and_an_interval_in_one_line(text: str, shown: str) -> None:
    assert firm(text).replace("\N{NO-BREAK SPACE}", "~") == shown
    assert soft(text).replace("<wbr>", "").unescape() == firm(text)
