"""What the names of weights stand for, fetched from a local server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pretrained
from filing import fetching
from pretrained import names
from pretrained.names import GOOGLE_BUCKET, GOOGLE_FILES, missing, resolve
from tests.file_server import Server, served
from tests.helpers import FIXTURES
from utils import UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from served(monkeypatch)


# ------------------------------------------------------------------------------- names of weights


def test_googles_names(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "WEIGHTS", tmp_path)
    monkeypatch.setattr(names, "GOOGLE_BUCKET", server.url)
    server.files["imagenet21k/ViT-B_16.npz"] = (FIXTURES / "google_tiny.npz").read_bytes()
    server.break_after = [100_000]
    net = pretrained.load_model("google-in21k", num_classes=3)
    assert net.vit.hidden_dim == 48
    assert [p.name for p in tmp_path.iterdir()] == ["google-in21k.npz"]
    pretrained.load_model("google-in21k")
    assert len(server.asked) == 2, "what is there is not fetched again"


def test_the_names_stand_for_googles_public_files() -> None:
    base = "https://storage.googleapis.com/vit_models"
    urls = {name: f"{GOOGLE_BUCKET}/{f}" for name, f in GOOGLE_FILES.items()}
    augreg = "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz"
    assert urls["google-in21k"] == f"{base}/imagenet21k/ViT-B_16.npz"
    assert urls["google-in21k-augreg"] == f"{base}/{augreg}"
    assert urls["google-in1k"] == f"{base}/imagenet21k+imagenet2012/ViT-B_16.npz"


def test_a_download_that_is_no_weights_file_is_not_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "WEIGHTS", tmp_path)
    content = bytearray((FIXTURES / "google_tiny.npz").read_bytes())
    content[5000] ^= 0xFF
    server.files["bad.npz"] = bytes(content)
    with pytest.raises(UserError, match="damaged"):
        resolve(f"{server.url}/bad.npz")
    assert not list(tmp_path.iterdir())


def test_a_hugging_face_repository(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    config = transformers.ViTConfig(
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "hub")
    for name in ("config.json", "model.safetensors"):
        content = (tmp_path / "hub" / name).read_bytes()
        server.files[f"someone/vit/resolve/main/{name}"] = content
    net = pretrained.load_model("someone/vit")
    assert net.vit.num_heads == 4 and net.vit.num_classes == 0
    asked = len(server.asked)
    torch.testing.assert_close(pretrained.load_model("someone/vit").norm.weight, net.norm.weight)
    assert len(server.asked) == asked
    with pytest.raises(UserError, match="neither model.safetensors nor|can't be had"):
        pretrained.load_model("someone/empty")


def test_the_hub_out_of_reach(server: Server, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(names, "WEIGHTS", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match=r"can't be (reached|had)"):
        pretrained.load_model("someone/vit")


@pytest.mark.parametrize("name", ["no-such-name", "weights/none.npz", "none.safetensors"])
def test_a_name_that_is_nothing(name: str) -> None:
    with pytest.raises(UserError, match="no such weights"):
        pretrained.load_model(name)


# --------------------------------------------------------------------- what is not on this machine


def test_what_would_be_fetched_is_known_before(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "WEIGHTS", tmp_path)
    for name, sizes in (
        ("google-in21k", (768, 12, 16, 21_843)),
        ("google-in1k", (768, 12, 16, 1000)),
        ("google-in21k-augreg-b32", (768, 12, 32, 21_843)),
        ("google-in21k-augreg-ti16", (192, 12, 16, 21_843)),
        ("google-in21k-l16", (1024, 24, 16, 21_843)),
    ):
        absent = missing(name)
        assert absent is not None and absent.path == tmp_path / f"{name}.npz"
        vit = absent.vit
        assert vit is not None
        assert (vit.hidden_dim, vit.num_layers, vit.patch_dim, vit.num_classes) == sizes
    for name in (f"{server.url}/w.npz", "someone/vit", "https://huggingface.co/someone/vit"):
        absent = missing(name)
        assert absent is not None and absent.vit is None and absent.path.parent == tmp_path
    assert missing("weights/none.npz") is None and missing("no-such-name") is None
    assert not server.asked and not list(tmp_path.iterdir())
    (tmp_path / "google-in21k.npz").touch()
    (tmp_path / "someone--vit").mkdir()
    assert missing("google-in21k") is None and missing("someone/vit") is None


def test_weights_beside_the_programs_are_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "HOME", tmp_path / "project")
    (tmp_path / "project").mkdir()
    fetched = tmp_path / "project" / "google-in21k.npz"
    fetched.write_bytes((FIXTURES / "google_tiny.npz").read_bytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert resolve("google-in21k") == fetched


def test_where_nothing_can_be_fetched_weights_that_are_here_are_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "WEIGHTS", tmp_path)
    monkeypatch.setattr(names, "HOME", tmp_path / "none")
    monkeypatch.setattr(names, "GOOGLE_BUCKET", server.url)
    monkeypatch.setattr(fetching, "DOWNLOAD_TRIES", 1)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError) as caught:
        resolve("google-in21k")
    assert "is here" not in str(caught.value)
    here = tmp_path / "vit-s14.safetensors"
    here.touch()
    with pytest.raises(UserError, match=f"{here} is here: train.checkpoint={here}"):
        resolve("google-in21k")
