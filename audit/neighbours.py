"""The pictures that a picture is most like, and a map of them all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

NEAREST = 5
BLOCK = 1_000  # pictures that are compared with all others at once
MOST_MAPPED = 2_000  # pictures that t-SNE lays out; the others lie at their nearest of these


def nearest(tokens: Tensor, others: Tensor | None = None, count: int = NEAREST) -> Tensor:
    """The indices (n, count) of the pictures most like each, the most like first, by the cosine of
    tokens (n, 2 D) of length 1: among `others`, or among themselves but for each itself."""
    own = others is None
    among = tokens if others is None else others
    found = []
    for start in range(0, len(tokens), BLOCK):
        cosines = tokens[start : start + BLOCK] @ among.T
        if own:
            rows = torch.arange(len(cosines))
            cosines[rows, start + rows] = -2
        found.append(cosines.topk(min(count, len(among) - own), 1).indices)
    return torch.cat(found)


def places(tokens: Tensor) -> np.ndarray:
    """Places (n, 2) from 0 to 1 on a map where like pictures are near (t-SNE; van der Maaten and
    Hinton 2008), by tokens (n, 2 D) of length 1."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    chosen = np.sort(np.random.default_rng(0).permutation(len(tokens))[:MOST_MAPPED])
    some = tokens[torch.from_numpy(chosen)]
    flat = PCA(min(32, *some.shape), random_state=0).fit_transform(some.numpy())
    perplexity = max(2.0, min(30.0, (len(some) - 1) / 3.5))
    laid = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(flat)
    if len(chosen) < len(tokens):
        near = nearest(tokens, some, 1)[:, 0].numpy()
        laid = laid[near] + np.random.default_rng(0).normal(scale=0.5, size=(len(tokens), 2))
    low, high = laid.min(0), laid.max(0)
    return (laid - low) / np.maximum(high - low, 1e-9)
