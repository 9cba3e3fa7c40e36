"""An ONNX graph from pixels of any size to the square that a network sees, as torchvision makes it.

ONNX's own Resize has no antialiasing before opset 18, and rounds otherwise after it. torchvision
resizes uint8 pictures as Pillow does: first across, then down, each time by weights of 16 bits, and
to whole numbers in between (PyTorch, aten/src/ATen/native/cpu/UpSampleKernel.cpp,
`_compute_index_ranges_int16_weights`). The same is done here with products of bytes, exactly: a
weight is 256 times one byte and another, of which a MatMulInteger each takes the sums.

A row of weights is nearly all zeros. So the output is made in runs of RUN pixels, each from the
window of the input that it reaches; that takes a tenth of the whole product's time.

Where PyTorch has none of its vector code (no AVX2), torchvision itself differs by one grey value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from config import Preprocessing
from transforms import MARGIN, STRIP

OPSET = 18
IR_VERSION = 10  # what ONNX Runtime 1.18 and later read
RUN = 14  # pixels of the output
SHARP = -0.5  # the cubic filter's coefficient, Pillow's
REACH = {"bilinear": 1.0, "bicubic": 2.0}  # of a filter, to either side
MOST_BITS, WEIGHT_BITS = 22, 15  # PyTorch's: after the point of a weight, and of a whole one


class Graph:
    """Nodes in the order in which they are made: `graph.Add(a, b, axis=0)` is one, and gives its
    output's name. Numbers and arrays among the inputs become constants."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __getattr__(self, operator: str) -> Callable[..., str]:
        if operator.startswith("_"):
            raise AttributeError(operator)

        def node(*inputs: Any, **attributes: Any) -> str:
            from onnx import helper

            name = f"{self.prefix}{operator}{len(self.nodes)}"
            given = [self.named(x) for x in inputs]
            self.nodes.append(helper.make_node(operator, given, [name], name, **attributes))
            return name

        return node

    def named(self, value: Any) -> str:
        from onnx import numpy_helper

        if isinstance(value, str):
            return value
        name = f"{self.prefix}constant{len(self.constants)}"
        array = np.asarray(value)
        array = array.astype(np.int64) if array.dtype == np.intp else array
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def whole(self, value: str) -> str:
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.INT64)

    def real(self, value: str) -> str:
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.DOUBLE)

    def byte(self, value: str) -> str:
        from onnx import TensorProto

        return self.Cast(value, to=TensorProto.UINT8)


def picture_graph(preprocessing: Preprocessing) -> Any:
    """The model: `pixels` (B, h, w, 3), uint8 RGB, to `square` (B, 3, S, S), uint8."""
    from onnx import TensorProto, helper

    g, S = Graph("picture/"), preprocessing.image_size
    pixels, sides = _cut(g, "pixels", preprocessing)
    resized, offsets = _geometry(g, sides, preprocessing)
    reach = REACH[preprocessing.interpolation]
    batch = g.Slice(g.Shape(pixels), [0], [1])
    columns = g.Transpose(pixels, perm=[2, 0, 1, 3])  # w B h 3
    x = _resized(g, columns, (sides[1], resized[1], offsets[1]), S, reach)
    rows = g.Concat([S], batch, sides[0], [3], axis=0)
    rows = g.Transpose(g.Reshape(x, rows), perm=[2, 0, 1, 3])  # h S B 3
    y = _resized(g, rows, (sides[0], resized[0], offsets[0]), S, reach)
    y = g.Reshape(y, g.Concat([S, S], batch, [3], axis=0))
    if preprocessing.fit == "pad":
        fill = np.array([round(255 * mean) for mean in preprocessing.mean], np.uint8)
        down, across = (_inside(g, resized[i], offsets[i], S) for i in (0, 1))
        inside = g.And(g.Reshape(down, [S, 1, 1, 1]), g.Reshape(across, [1, S, 1, 1]))
        y = g.Where(inside, y, fill)
    square = g.Transpose(y, perm=[2, 3, 0, 1])  # B 3 S S
    g.nodes[-1].output[0] = "square"
    assert square
    graph = helper.make_graph(
        g.nodes,
        "picture",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", "h", "w", 3])],
        [helper.make_tensor_value_info("square", TensorProto.UINT8, ["batch", 3, S, S])],
        g.constants,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


def _resize_to(preprocessing: Preprocessing) -> int:
    """What the shorter side becomes before a centre crop."""
    return round(preprocessing.image_size / preprocessing.crop)


def _cut(g: Graph, pixels: str, preprocessing: Preprocessing) -> tuple[str, tuple[str, str]]:
    """The picture without what a crop can't see of a long strip (`transforms.cut_to_crop`), and its
    height and width, each (1,)."""
    shape = g.Shape(pixels)
    sides = g.Slice(shape, [1], [2]), g.Slice(shape, [2], [3])
    if preprocessing.fit != "crop":
        return pixels, sides
    crop, size = preprocessing.image_size, _resize_to(preprocessing)
    short, long = g.Min(*sides), g.Max(*sides)
    ratio = g.Div(g.real(short), [float(size)])
    reached = g.whole(g.Ceil(g.Mul(g.Max(ratio, [1.0]), [float(MARGIN)])))
    # crop * short / size in this order, as Python does it: another one rounds otherwise.
    seen = g.whole(g.Ceil(g.Div(g.real(g.Mul(short, [crop])), [float(size)])))
    kept = g.Min(long, g.Add(seen, g.Mul(reached, [2])))
    kept = g.Add(kept, g.Mod(g.Sub(long, kept), [2]))
    kept = g.Where(g.LessOrEqual(long, g.Mul(short, [STRIP])), long, kept)
    start = g.Div(g.Sub(long, kept), [2])
    wide = g.Greater(sides[1], sides[0])
    h, w = g.Where(wide, sides[0], kept), g.Where(wide, kept, sides[1])
    top, left = g.Where(wide, [0], start), g.Where(wide, start, [0])
    starts = g.Concat(top, left, axis=0)
    ends = g.Concat(g.Add(top, h), g.Add(left, w), axis=0)
    return g.Slice(pixels, starts, ends, [1, 2]), (h, w)


def _geometry(
    g: Graph, sides: tuple[str, str], preprocessing: Preprocessing
) -> tuple[tuple[str, str], tuple[str, str]]:
    """Height and width to which a picture is resized, each (1,), and the place in it of the
    square's first row and column: below 0 where the square begins outside."""
    S = preprocessing.image_size
    if preprocessing.fit == "squash":
        square, nothing = g.Identity([S]), g.Identity([0])
        return (square, square), (nothing, nothing)
    if preprocessing.fit == "pad":
        longer = g.real(g.Max(*sides))
        h, w = (g.Max(g.whole(g.Round(g.Div(g.real(g.Mul(s, [S])), longer))), [1]) for s in sides)
        top, left = (g.Neg(g.Div(g.Sub([S], side), [2])) for side in (h, w))
        return (h, w), (top, left)
    short = g.Min(*sides)
    h, w = (g.Div(g.Mul(s, [_resize_to(preprocessing)]), short) for s in sides)
    # Half a pixel goes to the even place, as Python's round and ONNX's do.
    top, left = (g.whole(g.Round(g.Mul(g.real(g.Sub(side, [S])), [0.5]))) for side in (h, w))
    return (h, w), (top, left)


def _inside(g: Graph, resized: str, offset: str, S: int) -> str:
    """Which of the square's rows or columns (S,) lie in the resized picture."""
    place = g.Add(np.arange(S), offset)
    return g.And(g.GreaterOrEqual(place, [0]), g.Less(place, resized))


def _resized(g: Graph, x: str, axis: tuple[str, str, str], S: int, reach: float) -> str:
    """The first axis of x, uint8, brought to S pixels (S, the rest): `axis` is its length, the
    whole result's, and where in that the S begin, each (1,)."""
    length, resized, offset = axis
    scale = g.Div(g.real(length), g.real(resized))
    stretch = g.Max(scale, [1.0])
    support = g.Mul(stretch, [reach])
    filtered = Filter(g, length, scale, stretch, support, reach)
    bits, total_of = filtered.precision(resized)

    runs = -(-S // RUN)
    places = np.minimum(np.arange(runs * RUN), S - 1)  # the last run is filled up
    place = g.Add(places, offset)
    place = g.Max(g.Min(place, g.Sub(resized, [1])), [0])  # of what lies outside the nearest
    first, _ = filtered.span(place)
    first = g.Reshape(first, [runs, RUN])
    start = g.ReduceMin(first, [1], keepdims=1)  # runs 1
    # From the first pixel of the first to the last of the last.
    most = g.Add(g.Mul(scale, [float(RUN)]), g.Mul(support, [2.0]))
    window = g.Squeeze(g.Add(g.whole(g.Ceil(most)), [2]), [0])
    at = g.Add(start, g.Unsqueeze(g.Range(np.int64(0), window, np.int64(1)), [0]))  # runs window
    weights = filtered.weights(g.Reshape(place, [runs, RUN, 1]), g.Unsqueeze(at, [1]))
    total = g.Reshape(g.Gather(total_of, place), [runs, RUN, 1])
    weights = g.Mul(g.Div(weights, total), bits)
    half = g.Mul(g.Sign(weights), [0.5])
    whole = g.whole(g.Add(weights, half))  # runs RUN window; a cast cuts towards 0, as in C
    high, low = _bytes(g, whole)

    shape = g.Shape(x)
    rest = g.Slice(shape, [1], [9])
    flat = g.Reshape(x, g.Concat(g.Slice(shape, [0], [1]), [-1], axis=0))
    read = g.Gather(flat, g.Min(at, g.Sub(length, [1])), axis=0)  # runs window rest
    sums = g.Mul(g.MatMulInteger(high, read, np.uint8(128)), np.int32(256))
    sums = g.Add(sums, g.MatMulInteger(low, read))  # runs RUN rest, int32
    bits = _int32(g, bits)
    sums = g.Div(g.Add(sums, g.Div(bits, np.int32(2))), bits)
    sums = g.byte(g.Clip(sums, np.int32(0), np.int32(255)))
    sums = g.Reshape(sums, g.Concat([runs * RUN], rest, axis=0))
    return g.Slice(sums, [0], [S])


def _int32(g: Graph, value: str) -> str:
    from onnx import TensorProto

    return g.Cast(value, to=TensorProto.INT32)


def _bytes(g: Graph, whole: str) -> tuple[str, str]:
    """Numbers of 16 bits as 256 (high - 128) + low."""
    raised = g.Add(whole, [1 << 15])
    high = g.Div(raised, [256])
    return g.byte(high), g.byte(g.Sub(raised, g.Mul(high, [256])))


class Filter:
    """The triangle or cubic of antialiased resizing, along one axis: `length` pixels, `scale` of
    them a pixel of the result, all (1,)."""

    def __init__(
        self, g: Graph, length: str, scale: str, stretch: str, support: str, reach: float
    ) -> None:
        self.g, self.length, self.scale = g, length, scale
        self.stretch, self.support, self.reach = stretch, support, reach

    def span(self, place: str) -> tuple[str, str]:
        """The first pixel that counts for a place of the result, and the first that doesn't."""
        g = self.g
        centre = self.centre(place)
        first = g.whole(g.Add(g.Sub(centre, self.support), [0.5]))
        end = g.whole(g.Add(g.Add(centre, self.support), [0.5]))
        return g.Max(first, [0]), g.Min(end, self.length)

    def centre(self, place: str) -> str:
        return self.g.Mul(self.scale, self.g.Add(self.g.real(place), [0.5]))

    def weights(self, place: str, at: str) -> str:
        """What the pixels `at` count for the places, before their sum is made 1."""
        g = self.g
        first, end = self.span(place)
        x = g.Add(g.Sub(g.real(at), self.centre(place)), [0.5])
        x = g.Abs(g.Mul(x, g.Div([1.0], self.stretch)))
        counts = g.And(g.GreaterOrEqual(at, first), g.Less(at, end))
        counts = g.And(counts, g.Less(x, [self.reach]))
        return g.Where(counts, self._triangle(x) if self.reach == 1 else self._cubic(x), [0.0])

    def precision(self, resized: str) -> tuple[str, str]:
        """What weights are multiplied by to be whole, a power of 2 (1,), and the sums of the
        weights of all places of the result."""
        g = self.g
        every = g.Range(np.int64(0), g.Squeeze(resized, [0]), np.int64(1))
        place = g.Unsqueeze(every, [1])
        first, _ = self.span(place)
        taps = g.Squeeze(g.Add(g.Mul(g.whole(g.Ceil(self.support)), [2]), [1]), [0])
        at = g.Add(first, g.Unsqueeze(g.Range(np.int64(0), taps, np.int64(1)), [0]))
        weights = self.weights(place, at)
        total = g.ReduceSum(weights, [1], keepdims=1)
        largest = g.ReduceMax(g.Div(weights, total), keepdims=0)
        next_ones = g.Floor(g.Add(g.Mul(largest, 2.0 ** np.arange(1, MOST_BITS + 1)), [0.5]))
        fitting = g.whole(g.Less(next_ones, [float(1 << WEIGHT_BITS)]))
        bits = g.Pow([2.0], g.real(g.ReduceSum(fitting, [0], keepdims=1)))
        return bits, g.Squeeze(total, [1])

    def _triangle(self, x: str) -> str:
        return self.g.Sub([1.0], x)

    def _cubic(self, x: str) -> str:
        g, a = self.g, SHARP
        near = g.Mul(g.Mul(g.Sub(g.Mul(x, [a + 2]), [a + 3]), x), x)
        near = g.Add(near, [1.0])
        far = g.Mul(g.Add(g.Mul(g.Sub(x, [5.0]), x), [8.0]), x)
        far = g.Mul(g.Sub(far, [4.0]), [a])
        return g.Where(g.Less(x, [1.0]), near, far)
