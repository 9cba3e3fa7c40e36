"""Smaller ONNX models: weights of 16 or 8 bits, and what that costs in accuracy."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from images import read_image
from tools.export.given import Given
from tools.export.golden import HELD_OUT, answered, held_out_files
from tools.export.graph import quiet
from tools.export.ordinary import summary_of

PRECISIONS = ("fp32", "fp16", "int8")
LARGE = 4_096  # values of an array: smaller ones keep their 32 bits
SCOPES = "pkg.torch.onnx.name_scopes"  # the modules that a node was exported from


def with_halves(model: Any) -> Any:
    """The model with its large arrays as float16: half the file. Each is cast back where it is
    used, and so the products stay those of float32, which every runtime has."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for array in model.graph.initializer:
        if array.data_type != TensorProto.FLOAT or np.prod(array.dims) < LARGE:
            continue
        name = array.name
        half = numpy_helper.to_array(array).astype(np.float16)
        array.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return model


def with_bytes(model: Any) -> Any:
    """The model with the blocks' products in 8 bits; what goes in is measured picture by picture.

    A scale for each output, and weights of 7 bits: in pairs of larger ones the sums of x86's older
    instructions overflow, and a file would answer otherwise on another machine. Heads, attention
    and likeness stay in float32: they take little time.
    """
    import onnx

    constant = {array.name for array in model.graph.initializer}
    chosen = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and constant.intersection(node.input)
        and any(p.key == SCOPES and "net.blocks." in p.value for p in node.metadata_props)
    ]
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        onnx.save(model, plain)
        with quiet(""):  # it asks for what was done already
            _quantised(plain, small, chosen)
        return onnx.load(small)


def _quantised(plain: Path, small: Path, chosen: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        plain,
        small,
        nodes_to_quantize=chosen,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


@dataclass(frozen=True)
class Cost:
    """Of held-out pictures: how many the classifier has right, how many the small model, and to how
    many both give the same answer. `learned`: the run's refit was on all of them, too, so that what
    is right says nothing; then every other answer counts as a loss."""

    pictures: int
    before: int
    after: int
    same: int
    learned: bool = False

    @property
    def loss(self) -> float:
        """Lost accuracy, or the share of other answers; 0 where there is no picture to ask."""
        lost = self.pictures - self.same if self.learned else self.before - self.after
        return lost / self.pictures if self.pictures else 0.0

    def __str__(self) -> str:
        of = self.pictures
        if not of:
            return "the run's held-out pictures are not there: what it costs was not measured"
        if self.learned:
            return (
                f"the same answer as fp32 to {self.same} of {of} pictures; what it costs in "
                "accuracy was not measured, as the run has no test part (train.test_fraction) and "
                "its refit has learned these pictures, too"
            )
        return (
            f"accuracy of these weights on {of} held-out pictures: {self.after / of:.4f} (fp32 "
            f"{self.before / of:.4f}); the same answer to {self.same}"
        )


def cost(given: Given, model: Path) -> Cost:
    """What the model in a file loses to the classifier, on those of the run's held-out pictures
    that neither has learned, or where its refit has learned all of them, on these."""
    refit = summary_of(given.run).get("refit") or {"parts": ()}
    learned = refit.get("parts", ("train", "val"))
    unseen = tuple(part for part in HELD_OUT if part not in learned)
    files = held_out_files(given.run, unseen)
    learned_all = not files and bool(learned)
    if learned_all:
        files = held_out_files(given.run)
    labels = list(given.classifier.classes)
    run = session(model)
    pictures = before = after = same = 0
    for path, truth, answer in answered(given.classifier, files, "what 8 bits cost"):
        pixels = read_image(path, given.classifier.preprocessing.greys)
        label = labels[int(run.run(["probabilities"], {"pixels": pixels[None]})[0][0].argmax())]
        pictures += 1
        before += answer.label == truth
        after += label == truth
        same += label == answer.label
    return Cost(pictures, before, after, same, learned_all and pictures > 0)


def session(model: Path) -> Any:
    """The model of a file in ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings name nothing that a user can change
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
