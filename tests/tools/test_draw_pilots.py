"""The drawn pilots: same arguments, same bytes; and no folder but our own is written to."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tests.helpers import REPO
from tools.draw_pilots import __main__ as draw_pilots
from tools.draw_pilots import backdrops, light
from tools.draw_pilots.__main__ import MARKER, NAMES, README, main
from tools.draw_pilots.paper import Frame, Ink, Pen, around
from tools.draw_pilots.picture import draw_pilot, draw_pilot_with_mask

# Folders that were drawn years ago are known by these words: other ones would draw them anew.
NOTE = """\
These pictures are drawn stand-ins made by this program, not Safebooru pictures.
They were drawn by tools/draw_pilots.py and keep the place of the real pictures.
The characters belong to their owners: khara and the makers of the Evangelion series.

drawing version N
--per-class N
--seed N
"""


def draw(out: Path, *more: str) -> int:
    return main(["--out", str(out), "--per-class", "2", "--workers", "1", *more])


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder; tests may read it, not change it."""
    out = tmp_path_factory.mktemp("drawn") / "pilots"
    assert draw(out) == 0
    return out


def test_folders_are_the_tags(drawn: Path) -> None:
    assert {p.name for p in drawn.iterdir() if p.is_dir()} == {
        "ayanami_rei",
        "ikari_shinji",
        "makinami_mari_illustrious",
        "nagisa_kaworu",
        "souryuu_asuka_langley",
    }
    assert all(len(list((drawn / name).iterdir())) == 2 for name in NAMES)
    assert not (drawn / MARKER).exists()
    note = (drawn / README).read_text()
    assert "stand-ins" in note and "khara" in note
    assert re.sub(r"\d+", "N", note) == NOTE


@pytest.mark.parametrize("name", NAMES)
def test_one_picture(name: str) -> None:
    image, mask = draw_pilot_with_mask(name, default_rng([7, 1]))
    assert image.mode == "RGB" and mask.mode == "L" and mask.size == image.size
    assert 256 <= min(image.size) <= 384 and max(image.size) <= 1.5 * 384
    assert draw_pilot(name, default_rng([7, 1])).tobytes() == image.tobytes()


def test_masks_cover_a_sane_share() -> None:
    shares = []
    for k in range(20):
        mask = np.asarray(draw_pilot_with_mask(NAMES[k % 5], default_rng([3, k]))[1])
        shares.append(float((mask > 127).mean()))
        assert ((mask < 8) | (mask > 247)).mean() > 0.8  # a mask, not a haze
    assert min(shares) > 0.08 and max(shares) < 0.98 and 0.25 < np.mean(shares) < 0.75


def test_mask_lies_on_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a green ground, unlit, unhidden and ungraded, what is not green is the figure."""
    green = (0, 255, 0)
    monkeypatch.setattr(backdrops, "BACKDROPS", (lambda size, *_: Image.new("RGB", size, green),))
    monkeypatch.setattr(backdrops, "draw_clutter", lambda *_: None)
    monkeypatch.setattr(light, "draw_occluder", lambda *_: None)
    monkeypatch.setattr(light, "light_figure", lambda image, *_: image)
    monkeypatch.setattr(light, "grade", lambda image, *_: image)
    for k, name in enumerate(NAMES):
        image, mask = draw_pilot_with_mask(name, default_rng([5, k]))
        differs = (np.asarray(image).astype(int) - green != 0).any(-1)
        figure = np.asarray(mask) > 127
        assert (differs & figure).sum() / (differs | figure).sum() > 0.96


def test_pictures_of_a_class_differ() -> None:
    small = [
        np.asarray(draw_pilot(NAMES[0], default_rng([0, 0, k])).resize((32, 32)), float)
        for k in range(6)
    ]
    gaps = [np.abs(a - b).mean() for i, a in enumerate(small) for b in small[:i]]
    assert min(gaps) > 10


def test_same_bytes_whatever_the_workers(drawn: Path, tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "a"), "--per-class", "4", "--workers", "2"]
    assert main(arguments) == 0  # 20 pictures: enough for the pool
    again = contents(tmp_path / "a")
    assert all(again[name] == data for name, data in contents(drawn).items() if name != README)


def test_other_seed_gives_other_pictures(drawn: Path, tmp_path: Path) -> None:
    assert draw(tmp_path / "b", "--seed", "1") == 0
    other = contents(tmp_path / "b")
    assert all(other[name] != data for name, data in contents(drawn).items())


def test_second_run_does_nothing(
    drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(job: draw_pilots.Job) -> None:
        raise AssertionError(f"drew {job.path} again")

    monkeypatch.setattr(draw_pilots, "draw_job", fail)
    before = contents(drawn)
    assert draw(drawn) == 0
    assert contents(drawn) == before
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_stopped_run_continues(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "c", draw_pilots.draw_job
    done: list[draw_pilots.Job] = []

    def stop_at_fourth(job: draw_pilots.Job) -> None:
        if len(done) == 3:
            job.path.with_name(job.path.name + ".part").write_bytes(b"half a picture")
            raise KeyboardInterrupt
        done.append(job)
        whole(job)

    monkeypatch.setattr(draw_pilots, "draw_job", stop_at_fourth)
    assert draw(out) == 130
    assert (out / MARKER).exists() and not (out / README).exists()
    kept = {job.path: job.path.stat().st_mtime_ns for job in done}

    monkeypatch.setattr(draw_pilots, "draw_job", whole)
    assert draw(out) == 0
    assert contents(out) == contents(drawn)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_lost_picture_is_redrawn(drawn: Path, tmp_path: Path) -> None:
    assert draw(tmp_path / "d") == 0
    (tmp_path / "d" / NAMES[2] / "0001.jpg").unlink()
    assert draw(tmp_path / "d") == 0
    assert contents(tmp_path / "d") == contents(drawn)


@pytest.mark.parametrize("more", [(), ("--force",)])
def test_foreign_folder_is_refused(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ayanami_rei").mkdir()
    (tmp_path / "ayanami_rei" / "0000.jpg").write_bytes(b"mine")
    (tmp_path / README).write_text("my own notes")
    before = contents(tmp_path)
    assert draw(tmp_path, *more) == 2
    assert contents(tmp_path) == before
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_other_arguments_need_force(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e"
    assert main(["--out", str(out), "--per-class", "3", "--seed", "9", "--workers", "1"]) == 0
    (out / "notes.txt").write_text("kept")
    before = contents(out)
    assert draw(out) == 2 and "--force" in capsys.readouterr().err
    assert contents(out) == before
    assert draw(out, "--force") == 0
    assert contents(out) == {**contents(drawn), "notes.txt": b"kept"}


@pytest.mark.parametrize("bad", ["--per-class=0", "--seed=-1", "--workers=0"])
def test_bad_arguments(bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "f"), bad]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "f").exists()


def test_out_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "g").write_text("a file")
    assert draw(tmp_path / "g") == 2
    assert draw(tmp_path / "g" / "deeper") == 2


def test_sheet(drawn: Path, tmp_path: Path) -> None:
    assert draw(drawn, "--sheet", str(tmp_path / "new" / "sheet.png")) == 0
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width == 8 * 160 and sheet.height == 5 * 160


@pytest.mark.parametrize("soft", [0.0, 0.05])
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_a_shape_within_a_region_is_painted_as_over_all_of_it(soft: float, alpha: float) -> None:
    """Of the region only the shape's surroundings are touched: the same pixels, in less time."""
    rng = np.random.default_rng(0)
    frame = Frame((60.0, 50.0), 40.0, 0.2)
    for _ in range(30):
        region, shape = rng.uniform(-1.6, 1.6, (2, 5, 2))
        shape = rng.uniform(-1.5, 1.5, 2) + 0.3 * shape
        painted = Image.new("RGB", (120, 100), (9, 90, 180))
        pen = Pen(painted, frame, Ink(0.0, None))
        clip = pen.clip(region)
        wanted = painted.copy()
        mask = Image.new("L", clip.mask.size)
        flat = (pen.px(shape) - clip.corner).ravel().tolist()
        ImageDraw.Draw(mask).polygon(flat, fill=round(255 * alpha))
        if soft:
            mask = mask.filter(ImageFilter.BoxBlur(soft * frame.scale))
        wanted.paste((250, 200, 30), clip.corner, ImageChops.multiply(mask, clip.mask))
        pen.fill(shape, (250, 200, 30), alpha, clip, soft)
        assert painted.tobytes() == wanted.tobytes()
    least = around(np.array([[40.2, 30.0], [50.0, 35.5]]), 2, (120, 100))
    assert least == (38, 28, 52, 38)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at Linux's processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("all_hear", [True, False])
def test_a_stop_leaves_no_process(
    number: signal.Signals, all_hear: bool, drawn: Path, tmp_path: Path
) -> None:
    """And one sentence, whether a terminal tells all of them or another program the first."""
    heard = "default_int_handler" if number == signal.SIGINT else "SIG_DFL"  # not so under nohup
    code = "import signal, sys; from tools.draw_pilots.__main__ import main; "
    code += f"signal.signal({number}, signal.{heard}); sys.exit(main())"
    words = ["--out", str(tmp_path / "h"), "--per-class", "40", "--workers", "2"]
    program = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=REPO,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("h/*/*.jpg")):
        time.sleep(0.05)
    (os.killpg if all_hear else os.kill)(program.pid, number)
    said = program.communicate(timeout=60)[1]
    assert said == f"draw_pilots: stopped; the same command continues {tmp_path / 'h'}.\n"
    assert program.returncode == 128 + number and not in_session(program.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at Linux's processes")
def test_a_process_that_is_killed_ends_all(tmp_path: Path) -> None:
    """It was waited for, for ever."""
    words = ["--out", str(tmp_path / "a b"), "--per-class", "60", "--workers", "2"]
    program = subprocess.Popen(
        [sys.executable, "-m", "tools.draw_pilots", *words],
        cwd=REPO,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("a b/*/*.jpg")):
        assert program.poll() is None
    drawing = [process for process in in_session(program.pid) if process != program.pid]
    os.kill(drawing[0], signal.SIGKILL)
    said = program.communicate(timeout=60)[1]
    assert program.returncode == 2, said
    assert said.startswith("draw_pilots: a process was killed, ") and "--workers" in said
    assert said.endswith(f"; the same command continues {tmp_path / 'a b'}.\n")
    assert not in_session(program.pid)


def in_session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found
