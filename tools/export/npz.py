"""Google's layout: an .npz for the Flax code of google-research/vision_transformer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tools.export.given import Given, Written
from tools.export.ordinary import folded
from tools.export.reading import pillow_reader

ORDINARY = True

_HOW = '''
W = dict(np.load(HERE / "model.npz"))
BLOCKS, EPS, GELU = {blocks}, {eps!r}, "{gelu}"


def norm(x, name):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) / np.sqrt(variance + np.float32(EPS))
    return x * W[f"{{name}}/scale"] + W[f"{{name}}/bias"]


def dense(x, name):
    return x @ W[f"{{name}}/kernel"] + W[f"{{name}}/bias"]


def gelu(x):
    if GELU == "tanh":
        return x * 0.5 * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
    from scipy.special import erf  # JAX brings SciPy

    return x * 0.5 * (1 + erf(x / np.float32(2**0.5)))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(x, name):
    q, k, v = (
        np.einsum("nd,dhk->hnk", x, W[f"{{name}}/{{part}}/kernel"], optimize=True)
        + W[f"{{name}}/{{part}}/bias"][:, None]
        for part in ("query", "key", "value")
    )
    a = softmax(q @ k.transpose(0, 2, 1) / np.float32(q.shape[-1] ** 0.5)) @ v  # H N K
    out = W[f"{{name}}/out/kernel"]
    return np.einsum("hnk,hkd->nd", a, out, optimize=True) + W[f"{{name}}/out/bias"]


def of_one(image):
    """Probabilities (C,) of one input (c, h, w): the ViT written out once more, in NumPy."""
    kernel = W["embedding/kernel"]  # p p c D
    p, c = kernel.shape[0], image.shape[0]
    side = image.shape[1] // p
    x = image.reshape(c, side, p, side, p).transpose(1, 3, 2, 4, 0).reshape(side * side, -1)
    x = x @ kernel.reshape(-1, kernel.shape[-1]) + W["embedding/bias"]
    x = np.concatenate([W["cls"][0], x]) + W["Transformer/posembed_input/pos_embedding"][0]
    for i in range(BLOCKS):
        b = f"Transformer/encoderblock_{{i}}"
        x = x + attention(norm(x, f"{{b}}/LayerNorm_0"), f"{{b}}/MultiHeadDotProductAttention_1")
        hidden = gelu(dense(norm(x, f"{{b}}/LayerNorm_2"), f"{{b}}/MlpBlock_3/Dense_0"))
        x = x + dense(hidden, f"{{b}}/MlpBlock_3/Dense_1")
    return softmax(dense(norm(x[0], "Transformer/encoder_norm"), "head"))


def of_pixels(inputs):
    return np.stack([of_one(image) for image in inputs])


def of_files(paths):
    return of_pixels(np.stack([picture_input(path) for path in paths]))
'''
_LOAD = """
import numpy as np

weights = dict(np.load("{place}/model.npz"))  # the names of Google's published checkpoints
print(weights["head/kernel"].shape)
# golden/check.py holds the whole network in 50 lines of NumPy.
"""


def write(given: Given, folder: Path) -> Written:
    """model.npz under the names of Google's published checkpoints; the temperature is in the
    head."""
    vit = given.classifier.net.vit
    arrays = {n: a.numpy() for n, a in folded(given.classifier, "google").items()}
    np.savez(folder / "model.npz", **arrays)  # type: ignore[arg-type]  # the stub's allow_pickle
    notes: tuple[str, ...] = ()
    if vit.gelu != "tanh":
        notes = (
            "the network's GELU is the exact one; Flax's nn.gelu is the tanh one unless it is "
            "called with approximate=False, which Google's models_vit.py must be told",
        )
    if vit.eps != 1e-6:
        notes += (f"its layer norms have epsilon {vit.eps:g}; Flax's nn.LayerNorm has 1e-6",)
    how = _HOW.format(blocks=vit.num_layers, eps=vit.eps, gelu=vit.gelu)
    library = "numpy" if vit.gelu == "tanh" else "scipy"
    return Written(library, pillow_reader(given.classifier) + how, notes=notes, load=_LOAD)
