"""Ours against others, a step each: what is counted."""

import csv

import pytest
import torch

from benchmarks import throughput
from benchmarks.machine import keep_others
from config import ViTConfig
from model import VisionTransformer
from tools.baseline.networks import timm_model


@pytest.mark.parametrize("preset", ["Ti", "S"])
def test_flops_are_those_that_torch_counts_of_timm(preset: str) -> None:
    """Ours needs fewer: its last block answers for the class token alone."""
    pytest.importorskip("timm")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    vit = ViTConfig.model_validate({"preset": preset, "dim": 32, "num_classes": 2}).concrete()
    net = timm_model(VisionTransformer(vit)).eval()
    plain = sdpa_kernel(SDPBackend.MATH)  # a fused kernel's aren't counted on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        net(torch.zeros(1, 3, 32, 32))
    head = 2 * vit.hidden_dim * 2
    assert throughput.forward_flops(vit) + head == counter.get_total_flops()


def test_a_row_for_each_way(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    monkeypatch.setattr(throughput, "RESULTS", tmp_path)
    monkeypatch.setattr(throughput, "matrix_peak", lambda *given: 100.0)
    words = ["--size", "Ti", "--mode", "pretrained", "--way", "ours", "timm", "--batch", "1"]
    throughput.main([*words, "--steps", "1", "--device", "cpu", "--images", "nowhere"])
    (path,) = tmp_path.glob("*.csv")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["way"] for row in rows] == ["ours", "timm"]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    flops = 3 * throughput.forward_flops(ViTConfig.model_validate({"preset": "Ti"}).concrete(5))
    rate = float(rows[0]["images_per_second"])
    assert float(rows[0]["gflops"]) == pytest.approx(rate * flops / 1e9, rel=0.05)


def test_rows_of_other_kinds_stay_in_the_table(tmp_path) -> None:
    def rows(way: str, size: str, rate: str) -> dict[str, str]:
        row = dict.fromkeys(throughput.FIELDS, "")
        return row | {"size": size, "way": way, "images_per_second": rate}

    path, columns = tmp_path / "t.csv", (throughput.KIND, throughput.FIELDS)
    keep_others(path, [rows("ours", "B", "1"), rows("timm", "B", "2")], *columns)
    keep_others(path, [rows("ours", "Ti", "3")], *columns)
    keep_others(path, [rows("ours", "B", "4")], *columns)
    with open(path, newline="") as file:
        found = [(r["way"], r["size"], r["images_per_second"]) for r in csv.DictReader(file)]
    assert found == [("timm", "B", "2"), ("ours", "Ti", "3"), ("ours", "B", "4")]
