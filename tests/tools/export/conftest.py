"""What the tests of the exports share."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator

import pytest

from tools.export import onnx_folder


@pytest.fixture(scope="module")
def exported_once() -> Iterator[None]:
    """PyTorch's exporter takes some seconds: a file's tests share what it gives."""
    kept = functools.cache(onnx_folder.answering_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_folder, "answering_model", lambda c: copy.deepcopy(kept(c)))
        yield
