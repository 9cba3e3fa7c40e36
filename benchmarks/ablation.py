"""Why the first attempt ended at 0.55: each of its defects, put into the right network.

    python -m benchmarks.ablation [--images data/characters5]

`characters5`, a ViT-S/14 at 224, last block + norm + head: the right network, each defect alone,
and all together; three seeds each. Every row has the same weights, pictures and steps. Writes
results/ablation.csv after each row and docs/why-0.55.png; rows that the table has already are not
measured again. docs/why-0.55.md explains.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from tqdm import tqdm

from benchmarks.machine import RESULTS, ROOT
from config import Preprocessing, TrainConfig
from dataset import load_split
from images import ImageDataset, Sample
from model import Block, VisionTransformer
from pretrained.build import load_model
from pretrained.layouts import HALF, IMAGENET
from tokens.trunk import Trunk
from transforms import eval_transform
from utils import UserError, command_line, keep_freed_memory, replacing, write_csv

EPOCHS, BATCH, SEEDS = 12, 16, (0, 1, 2)
LR, WRONG_LR, WEIGHT_DECAY, WARMUP_EPOCHS, DROPOUT = 3e-4, 1e-3, 0.01, 2, 0.1
EVAL_BATCH = 50
FIRST_ATTEMPT, CHANCE = 0.55, 0.2

RIGHT, ALL = "the right network", "all defects together"
MOST = "all defects, validated rightly"
Defects = frozenset[str]
# Rows that share a trunk pass follow each other.
ROWS: dict[str, Defects] = {
    RIGHT: frozenset(),
    "final norm at its initialisation": frozenset({"bare norm"}),
    "learning rate 1e-3, stepped per epoch": frozenset({"learning rate"}),
    "dropout 0.1, validated rightly": frozenset({"dropout"}),
    "dropout 0.1, validated in training mode": frozenset({"dropout", "training mode"}),
    "the other GELU": frozenset({"other GELU"}),
    "the other mean and std": frozenset({"other normalisation"}),
    "the whole picture squashed": frozenset({"squashed"}),
    "a second GELU after the MLP": frozenset({"second GELU"}),
    "LayerNorm over the tokens": frozenset({"token norm"}),
}
EVERY = frozenset().union(*ROWS.values())
ROWS |= {MOST: EVERY - {"training mode"}, ALL: EVERY}
CONTROL = "dropout 0.1, validated rightly"  # no defect: what its neighbour is to be compared with

IN_TRUNK = frozenset(
    {"other GELU", "other normalisation", "squashed", "second GELU", "token norm", "training mode"}
)
COLUMNS = (
    "row",
    "test_accuracy",
    "std",
    "seeds",
    "points_lost",
    "val_accuracy",
    "cos_entering",
    "cos_feature",
    "std_entering",
    "seconds",
    "test_accuracies",
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--images", default="data/characters5")
    parser.add_argument("--weights", default="weights/vit-s14.safetensors")
    parser.add_argument("--threads", type=int, help="PyTorch's; left out: its own choice")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    path = RESULTS / "ablation.csv"
    rows = read(path)
    if len(rows) < len(ROWS):
        bench = Bench(args.images, args.weights)
        for name, defects in ROWS.items():
            if name not in rows:
                rows[name] = bench.measure(name, defects)
                save(rows, path)
    print(table(rows))
    plot(rows, ROOT / "docs" / "why-0.55.png")
    return 0


# ------------------------------------------------------------------------------------ the defects


class TokenNorm(nn.LayerNorm):
    """LayerNorm whose mean and (unbiased) variance are over the tokens instead of the width."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)  # B N D -> B 1 D
        return (x - mean) / (variance + 1e-5).sqrt() * self.weight + self.bias


def over_tokens(norm: nn.LayerNorm) -> TokenNorm:
    """A norm with the same weight and bias, and the wrong statistics."""
    wrong = TokenNorm(norm.normalized_shape)
    wrong.load_state_dict(norm.state_dict())
    return wrong


def break_network(net: VisionTransformer, defects: Defects) -> VisionTransformer:
    """Put in those of the defects that are the network's own, in all of its blocks."""
    for block in net.blocks:
        assert isinstance(block, Block)
        if "token norm" in defects:
            block.norm1, block.norm2 = over_tokens(block.norm1), over_tokens(block.norm2)
        if "other GELU" in defects:
            exact = block.mlp.act.approximate == "none"
            block.mlp.act = nn.GELU(approximate="tanh" if exact else "none")
        if "second GELU" in defects:
            after = nn.Sequential(nn.GELU(block.mlp.act.approximate), block.mlp.drop2)
            block.mlp.drop2 = after  # type: ignore[assignment]
    if "bare norm" in defects:
        net.norm.reset_parameters()  # weight 1, bias 0
    if "dropout" in defects:
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = DROPOUT
    net.full_last_block = "token norm" in defects  # the class token's shortcut needs right norms
    net.freeze_trunk(len(net.blocks) - 1)
    return net


def transform_with(preprocessing: Preprocessing, defects: Defects) -> v2.Compose:
    """The weights' own preparation of a picture, or a wrong one."""
    if "other normalisation" in defects:
        other = HALF if preprocessing.mean == IMAGENET["mean"] else IMAGENET
        preprocessing = preprocessing.model_copy(update=other)
    if "squashed" not in defects:
        return eval_transform(preprocessing)
    size = preprocessing.image_size
    mode = InterpolationMode(preprocessing.interpolation)
    square = v2.Resize((size, size), mode, antialias=True)
    whole = eval_transform(preprocessing.model_copy(update={"crop": 1.0}))  # cuts nothing off
    return v2.Compose([square, *whole.transforms])


def schedule(steps: int, defects: Defects) -> list[float]:
    """The learning rate of every step of `EPOCHS` epochs: warm-up, then a cosine."""
    if "learning rate" not in defects:
        total, warmup = EPOCHS * steps, WARMUP_EPOCHS * steps
        return [LR * factor(i, total, warmup) for i in range(total)]
    by_epoch = [WRONG_LR * factor(i, EPOCHS, WARMUP_EPOCHS) for i in range(EPOCHS)]
    return [lr for lr in by_epoch for _ in range(steps)]


def factor(i: int, total: int, warmup: int) -> float:
    if i < warmup:
        return (i + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (i - warmup) / (total - warmup)))


# ---------------------------------------------------------------------------- the network in parts


@torch.no_grad()
def enter_last_block(
    net: VisionTransformer, images: Tensor, blocks: Iterable[Callable[[Tensor], Tensor]]
) -> Tensor:
    """The tokens (B, N, D) that enter the last block, by way of the `blocks` before it."""
    x = net.forward_trunk(images, 0)
    for block in blocks:
        x = block(x)
    return x


def leave_last_block(net: VisionTransformer, tokens: Tensor) -> Tensor:
    """The class token (B, D) that leaves the last block, of the tokens (B, N, D) that enter it."""
    last = net.blocks[-1]
    assert isinstance(last, Block)
    if not isinstance(last.norm1, TokenNorm):
        return last.forward_cls(last.normalise(tokens), tokens[:, 0])
    x = tokens + last.attn(last.norm1(tokens))  # the next norm needs all of them, the MLP does not
    return x[:, 0] + last.mlp(last.norm2(x)[:, 0])


def logits_of(net: VisionTransformer, tokens: Tensor) -> Tensor:
    return net.forward_head(leave_last_block(net, tokens))


# ---------------------------------------------------------------------------------- a row's numbers


class Bench:
    """The pictures and the trunk's tokens: (n, views, N, D) a part, views being plain, mirrored."""

    def __init__(self, images: str, weights: str) -> None:
        self.weights = weights
        self.split = load_split(TrainConfig(base_dir=images, val_fraction=0.2, seed=0))
        if not self.split.part("test"):
            raise UserError(f"{images} has no test part, on which the rows are measured")
        self.kept: dict[tuple[Defects, str], Tensor] = {}
        self.reference: tuple[Tensor, Tensor] | None = None  # of the right network

    def network(self, defects: Defects) -> VisionTransformer:
        net = load_model(self.weights, num_classes=len(self.split.classes), image_size=224)
        return break_network(net, defects)

    def measure(self, name: str, defects: Defects) -> dict[str, Any]:
        if self.reference is None:
            self.reference = self.signal(self.tokens(frozenset(), "test"), frozenset())
        started = time.perf_counter()
        train = self.tokens(defects - {"training mode"}, "train")
        val, test = self.tokens(defects, "val"), self.tokens(defects, "test")
        entering, feature = self.signal(test, defects)
        scores: dict[str, list[float]] = {"val": [], "test": []}
        for seed in SEEDS:
            net = self.network(defects)
            fit(net, train, self.labels("train"), defects, seed, f"{name}, seed {seed}")
            scores["val"].append(accuracy(net, val, self.labels("val"), defects))
            scores["test"].append(accuracy(net, test, self.labels("test"), defects))
        row: dict[str, Any] = {
            "row": name,
            "test_accuracy": statistics.mean(scores["test"]),
            "std": statistics.stdev(scores["test"]),
            "seeds": len(SEEDS),
            "val_accuracy": statistics.mean(scores["val"]),
            "cos_entering": F.cosine_similarity(entering, self.reference[0]).mean().item(),
            "cos_feature": F.cosine_similarity(feature, self.reference[1]).mean().item(),
            "std_entering": test.std().item(),
            "seconds": round(time.perf_counter() - started),
        }
        row = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in row.items()}
        row["test_accuracies"] = " ".join(f"{score:.3f}" for score in scores["test"])
        print(", ".join(f"{k} {v}" if k != "row" else v for k, v in row.items()), flush=True)
        return row

    def labels(self, part: str) -> Tensor:
        return torch.tensor([sample.label for sample in self.split.part(part)])

    def tokens(self, defects: Defects, part: str) -> Tensor:
        """A part's tokens in a network with these defects, kept for the next rows of that trunk."""
        key = (defects & IN_TRUNK, part)
        if key not in self.kept:
            same = key[0] - {"training mode"}
            self.kept = {k: v for k, v in self.kept.items() if k[0] - {"training mode"} == same}
            self.kept[key] = self.trunk_pass(defects, part, self.split.part(part))
        return self.kept[key]

    def trunk_pass(self, defects: Defects, part: str, samples: Sequence[Sample]) -> Tensor:
        net = self.network(defects).eval()
        transform = transform_with(net.preprocessing, defects)
        images = ImageDataset(samples, transform, self.split.decoded, 0)
        trunk, size = Trunk(net, torch.device("cpu")), EVAL_BATCH // 2
        blocks = trunk.blocks  # oneDNN's where they give the same, which a second GELU does not
        if "training mode" in defects:
            torch.manual_seed(0)
            blocks = [module.train() for module in (net.pos_drop, *net.blocks[:-1])][1:]
        found = []
        with tqdm(total=len(samples), desc=f"{part} tokens", unit="image", leave=False) as bar:
            for start in range(0, len(samples), size):
                rows = range(start, min(start + size, len(samples)))
                batch = torch.stack([images[i][0] for i in rows])
                views = [batch, batch.flip(-1)] if part == "train" else [batch]
                found.append(torch.stack([enter_last_block(net, v, blocks) for v in views], 1))
                bar.update(len(batch))
        return torch.cat(found)

    @torch.no_grad()
    def signal(self, tokens: Tensor, defects: Defects) -> tuple[Tensor, Tensor]:
        """The class tokens (n, D) that enter the last block, and what the head would read of them
        before any training."""
        net = self.network(defects).train("training mode" in defects)
        features = [net.norm(leave_last_block(net, x)) for x in batches(tokens)]
        return tokens[:, 0, 0].clone(), torch.cat(features)


def batches(tokens: Tensor) -> Iterator[Tensor]:
    """The plain view of a part's tokens, some pictures at a time."""
    yield from tokens[:, 0].split(EVAL_BATCH)


def fit(
    net: VisionTransformer, tokens: Tensor, labels: Tensor, defects: Defects, seed: int, name: str
) -> None:
    """Train the last block, the final norm and the head on tokens (n, views, N, D)."""
    torch.manual_seed(seed)
    net.train()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    n, views = tokens.shape[:2]
    rates = iter(schedule(math.ceil(n / BATCH), defects))
    for _ in tqdm(range(EPOCHS), name, unit="epoch", leave=False):
        draws = torch.randint(views, (n,))
        for chosen in torch.randperm(n).split(BATCH):
            optimizer.param_groups[0]["lr"] = next(rates)
            loss = F.cross_entropy(logits_of(net, tokens[chosen, draws[chosen]]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(net: VisionTransformer, tokens: Tensor, labels: Tensor, defects: Defects) -> float:
    net.train("training mode" in defects)
    logits = torch.cat([logits_of(net, x) for x in batches(tokens)])  # n C
    return (logits.argmax(1) == labels).float().mean().item()


# --------------------------------------------------------------------------------- table and plot


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The rows measured so far, by name."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["row"]: row for row in csv.DictReader(file)}


def save(rows: dict[str, dict[str, Any]], path: Path) -> None:
    right = float(rows[RIGHT]["test_accuracy"])
    for row in rows.values():
        row["points_lost"] = f"{100 * (right - float(row['test_accuracy'])):.1f}"
    write_csv(path, [rows[name] for name in ROWS if name in rows], COLUMNS)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| | test accuracy | points lost | val | cos, entering | cos, feature | std, entering |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ROWS:
        row = {k: float(v) for k, v in rows[name].items() if k not in ("row", "test_accuracies")}
        lines.append(
            f"| {name} | {row['test_accuracy']:.3f} ± {row['std']:.3f} | {row['points_lost']:.1f} "
            f"| {row['val_accuracy']:.3f} | {row['cos_entering']:.3f} | {row['cos_feature']:.3f} "
            f"| {row['std_entering']:.2f} |"
        )
    seconds = sum(float(row["seconds"]) for row in rows.values())
    return "\n".join([*lines, f"\n{seconds / 60:.0f} minutes"])


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """A bar a row, the best at the top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = {RIGHT: "#009E73", CONTROL: "#999999", MOST: "#D55E00", ALL: "#D55E00"}
    alone = [name for name in ROWS if name not in (RIGHT, MOST, ALL)]
    alone.sort(key=lambda name: -float(rows[name]["test_accuracy"]))
    names = [RIGHT, *alone, MOST, ALL][::-1]
    scores = [float(rows[name]["test_accuracy"]) for name in names]
    stds = [float(rows[name]["std"]) for name in names]
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.barh(names, scores, color=[colours.get(name, "#0072B2") for name in names], height=0.72)
    axes.errorbar(scores, names, xerr=stds, fmt="none", ecolor="black", capsize=3, lw=1)
    for name, score, std in zip(names, scores, stds, strict=True):
        lost = float(rows[name]["points_lost"])
        said = f"{score:.3f}" if name == RIGHT else f"{score:.3f}  ({-lost:+.1f})"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # over the dotted lines
        axes.annotate(said, (score + std + 0.012, name), va="center", fontsize=9, bbox=box)
    for x, said in ((FIRST_ATTEMPT, "the first attempt: 0.55"), (CHANCE, "chance: 0.20")):
        axes.vlines(x, -0.6, len(names) - 0.5, color="#000000", lw=1, ls=":")
        axes.annotate(said, (x, len(names) - 0.45), ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(0, 1.12), ylim=(-0.6, len(names)))
    axes.set(xlabel="test accuracy, 500 pictures, mean ± std of three seeds")
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "characters5, ViT-S/14, last block + norm + head: the same weights, each defect put in "
        "(points against the right network)",
        fontsize=10,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
