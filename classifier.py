"""A trained network as a classifier: from picture files to answers.

    from classifier import Classifier

    classifier = Classifier("last")                   # the newest run; or a run's name, or a file
    for answer in classifier(["a.jpg", "b.png"]):
        print(answer.label, answer.probability, answer.unlike)

Everything that answering needs is in the weights file: the classes, how a picture becomes the
network's input, how sure the answers are, and what the training pictures were like (`certainty`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from certainty.certainty import sureness
from config_file import load_config
from decoding.formats import MAX_PIXELS, TooLarge, why
from engine.run import BEST, trained
from images import as_tensor, pixels_of, read_image
from model import Tail, VisionTransformer, entering
from pretrained.build import build, whole
from pretrained.names import LOGS, WEIGHTS, missing
from pretrained.near import near
from tokens.trunk import Trunk
from transforms import eval_transform
from utils import UserError, log, pick_device

MIN_CONFIDENCE = 0.5  # below, an answer is unsure
UNLIKE = 0.95  # of the known held-out pictures lie nearer: EXPERIMENTS.md, 2026-11-26
LOADING = Lock()
AHEAD = 2  # batches that are decoded while the network answers one

Picture = Path | str | Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class Answer:
    """What the network says of a picture.

    `probabilities` by class, calibrated; `label` and `probability` are the highest. `unlike` is the
    share of known held-out pictures that lie nearer to the training pictures than this one (None
    where the weights don't know), `could_be` the classes of which one is the right one in nine of
    ten cases. `unsure`: less probable than the classifier's `min_confidence`; `strange`: as unlike
    the training pictures as its `unlike`, or more.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    unlike: float | None
    could_be: tuple[str, ...]
    unsure: bool
    strange: bool

    @property
    def said(self) -> str:
        """The label, `unlike` where the picture is like nothing that was learned, or `unsure`."""
        return "unlike" if self.strange else "unsure" if self.unsure else self.label


@dataclass(frozen=True)
class Unreadable:
    """A picture that can't be read, and why."""

    reason: str


class Classifier:
    """A network with all that its answers need; `checkpoint` is a run's name or folder, a weights
    file of any known layout, or `last`, the newest run. A file of more pixels than `max_pixels` is
    not read.

    Raises UserError where there are no such weights, or they have no classes.
    """

    def __init__(
        self,
        checkpoint: str | Path = "last",
        *,
        device: str = "auto",
        min_confidence: float = MIN_CONFIDENCE,
        unlike: float | None = UNLIKE,
        flip: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        _check_thresholds(min_confidence, unlike)
        self.checkpoint = find_checkpoint(str(checkpoint))
        self.device, fallback = pick_device(device)
        if fallback:
            log.info(fallback)
        self.net = load_classifier(self.checkpoint).to(self.device)
        self.classes = class_names(self.net)
        self.certainty = self.net.certainty
        self.min_confidence, self.unlike, self.flip = min_confidence, unlike, flip
        self.max_pixels = max_pixels
        self.preprocessing = self.net.preprocessing
        self._transform = eval_transform(self.preprocessing, self.net.vit.input_channels)
        self.net.freeze_trunk(self.net.last_read)
        likeness = None if self.certainty is None else self.certainty.likeness
        self._likeness = likeness
        layers = likeness is not None or self.net.layers is not None
        self._trunk = Trunk(self.net, self.device, layers=layers)
        self._tail = Tail(self.net)

    @property
    def batch_size(self) -> int:
        return self._trunk.batch_size

    def __call__(self, pictures: Picture | Iterable[Picture]) -> list[Answer]:
        """The answers to pictures, in their order: paths, PIL's pictures, pixels (h, w, 3) as
        uint8; of one alone a list of one. Raises UserError naming one that can't be read."""
        single = isinstance(pictures, (str, Path, Image.Image)) or hasattr(pictures, "shape")
        if not (single or isinstance(pictures, Iterable)) or isinstance(pictures, bytes):
            kind = type(pictures).__name__
            raise UserError(f"{kind} is no picture: give a path, PIL's, pixels, or a list of them")
        some = [pictures] if single else list(pictures)  # type: ignore[arg-type]
        found: list[Answer] = []
        for picture, answer in self.stream(some):  # type: ignore[arg-type]
            if isinstance(answer, Unreadable):
                named = isinstance(picture, (str, Path)) and str(picture)
                what = picture if named else f"picture {len(found) + 1}"
                raise UserError(f"{what} can't be read: {answer.reason}")
            found.append(answer)
        return found

    def stream(self, pictures: Iterable[Picture]) -> Iterator[tuple[Picture, Answer | Unreadable]]:
        """Each picture with its answer, in order, a batch at a time: of any number of pictures only
        some are in memory."""
        source = iter(pictures)
        ahead = AHEAD * self.batch_size
        with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
            waiting: deque[tuple[Picture, Future[Tensor | Unreadable]]] = deque()
            try:
                while True:
                    for picture in islice(source, ahead + self.batch_size - len(waiting)):
                        waiting.append((picture, pool.submit(self._input_of, picture)))
                    if not waiting:
                        return
                    some = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
                    yield from self._answered([(p, future.result()) for p, future in some])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's logits (B, C) of its inputs (B, c, h, w), before any calibration, and how
        unlike the training pictures each is (B,), on the CPU."""
        with torch.inference_mode():
            tokens = self._trunk(images)
            logits = self._tail(tokens).float().cpu()
            if self._likeness is None or tokens.layers is None:
                return logits, None
            features = entering(tokens.layers, self._likeness.depths.tolist())
            return logits, self._likeness(features).cpu()

    def probabilities(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Calibrated probabilities (B, C) of inputs (B, c, h, w), and how unlike they are (B,)."""
        logits, far = self.logits(images)
        sure = sureness(self.certainty, logits)
        if self.flip:
            sure = (sure + sureness(self.certainty, self.logits(images.flip(-1))[0])) / 2
        return sure, far

    def input_of(self, picture: Picture) -> Tensor:
        """What the network sees of a picture (c, h, w). Raises what reading it raises."""
        return self._transform(_pixels(picture, self.preprocessing.greys, self.max_pixels))

    def _input_of(self, picture: Picture) -> Tensor | Unreadable:
        try:
            return self.input_of(picture)
        except Exception as error:  # damaged files make Pillow raise nearly anything
            if isinstance(error, TooLarge):
                return Unreadable(f"{error.fact}, more than {self.max_pixels:,}")
            return Unreadable(why(error))

    def _answered(
        self, batch: Sequence[tuple[Picture, Tensor | Unreadable]]
    ) -> Iterator[tuple[Picture, Answer | Unreadable]]:
        inputs = [x for _, x in batch if isinstance(x, Tensor)]
        answers = iter(self._answers(torch.stack(inputs)) if inputs else ())
        for picture, x in batch:
            yield picture, next(answers) if isinstance(x, Tensor) else x

    def _answers(self, images: Tensor) -> Iterator[Answer]:
        sure, far = self.probabilities(images)
        if not sure.isfinite().all():
            raise UserError(
                f"{self.checkpoint} answers with numbers that are not finite: its weights are too "
                "large, or damaged; train it again, or name others"
            )
        level = 1.0 if self.certainty is None else self.certainty.set_level.item()
        for i, row in enumerate(sure.tolist()):
            order = sorted(range(len(row)), key=lambda c: -row[c])
            share = None if far is None else far[i].item()
            could_be = [c for c in order if row[c] >= level] or order[:1]
            yield Answer(
                label=self.classes[order[0]],
                probability=row[order[0]],
                probabilities=dict(zip(self.classes, row, strict=True)),
                unlike=share,
                could_be=tuple(self.classes[c] for c in could_be),
                unsure=row[order[0]] < self.min_confidence,
                strange=share is not None and self.unlike is not None and share >= self.unlike,
            )


def _check_thresholds(min_confidence: float, unlike: float | None) -> None:
    for name, value in (("min_confidence", min_confidence), ("unlike", unlike)):
        if name == "unlike" and value is None:
            continue
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            off = "; None is off" if name == "unlike" else ""
            raise UserError(f"{name} is {value!r}: it takes a number from 0 to 1{off}")


def _pixels(picture: Picture, greys: tuple[float, float] | None, most: int) -> Tensor:
    """Pixels (3, h, w), uint8, as training reads them."""
    if isinstance(picture, (str, Path)):
        return as_tensor(read_image(Path(picture), greys, most))
    if isinstance(picture, Image.Image):
        with LOADING:  # the same one may be asked for twice: its file is read once, and its EXIF
            picture.load()
            picture.getexif()
        return as_tensor(pixels_of(ImageOps.exif_transpose(picture), greys))
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().numpy()
        if picture.ndim == 3 and picture.shape[0] in (1, 3, 4):
            picture = picture.transpose(1, 2, 0)
    if not isinstance(picture, np.ndarray):
        raise UserError(f"{type(picture).__name__} is no picture: give a path, PIL's, or pixels")
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    of_colours = picture.ndim == 3 and picture.shape[2] in (3, 4)
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or of_colours) or not picture.size:
        raise UserError(
            f"pixels are uint8 of (h, w), (h, w, 3) or (h, w, 4), not {picture.dtype} of "
            f"{tuple(picture.shape)}"
        )
    return as_tensor(pixels_of(Image.fromarray(np.ascontiguousarray(picture)), greys))


def wanted_weights(given: str | None) -> str:
    """The weights that a command line names or else the project's page does, or the newest run."""
    if given is not None:
        return given
    return load_config("config.yaml")[0].inference.checkpoint or "last"


def find_checkpoint(wanted: str) -> Path:
    """The weights file on this machine that a path, a model's folder, a run's name, one of its
    folders, or `last` stands for. Raises UserError, with what may be meant, where there is none."""
    found = trained(wanted)
    if found is not None:
        return found
    if wanted == "last":
        raise UserError(f"{LOGS} holds no run with weights yet: train one, or name a file")
    meant = near(wanted, [WEIGHTS], LOGS)
    if absent := missing(wanted):
        or_ = f"; {meant}" if meant.startswith("did") else ""
        raise UserError(
            f"{wanted} is not on this machine: a training that names it as train.checkpoint "
            f"fetches {absent.source} to {absent.path}{or_}"
        )
    raise UserError(f"{wanted}: no such weights; {meant} (a file, a run's name or folder, or last)")


def load_classifier(checkpoint: Path) -> VisionTransformer:
    """The network of a checkpoint; UserError where it isn't one, or has no head."""
    net = build(whole(checkpoint))
    if not net.num_classes:
        raise UserError(
            f"{checkpoint} has no head, so no classes to look for; train it first, and name that "
            f"run's {BEST}"
        )
    return net


def class_names(net: VisionTransformer) -> tuple[str, ...]:
    """What the logits mean; numbers where the checkpoint doesn't say."""
    return net.classes or tuple(f"class {i}" for i in range(net.num_classes))
