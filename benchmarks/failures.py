"""How often to save: a long run with failures, simulated, beside what Young and Daly say.

    python -m benchmarks.failures [--runs 400]

A run of so many hours of work on so many GPUs. Failures come at random (exponential, 419 in 54 days
of 16,384 GPUs, as Llama 3's training had: arXiv:2407.21783, table 5); saving takes `save` seconds,
coming back `restart`; what was done since the last save is done again. Young's interval is the root
of 2 save MTBF (doi:10.1145/361147.361115); Daly's has two terms more
(doi:10.1016/j.future.2004.11.016). A table of the time that the run takes by what it would take
undisturbed: mean and standard error over seeded runs. Nothing is measured here but the arithmetic.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np

from utils import command_line

HOURS_BETWEEN = 54 * 24 * 16_384 / 419  # of one GPU
SAVE, RESTART = 2.0, 120.0  # seconds
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Case:
    """A run: hours of work undisturbed, its GPUs, and how much more often than usual they fail."""

    title: str
    hours: float
    gpus: int
    worse: float = 1.0

    @property
    def between(self) -> float:
        """Seconds between two failures, on average."""
        return HOURS_BETWEEN * 3600 / self.gpus / self.worse


CASES = (
    Case("ImageNet-1k, 300 epochs, 1 GPU", 41, 1),
    Case("ImageNet-1k, 300 epochs, 8 GPUs", 5.7, 8),
    Case("ImageNet-21k, 90 epochs, 8 GPUs", 19, 8),
    Case("the same, failing 1,000 times as often", 19, 8, 1000),
    Case("a hundred times the work, 1,024 GPUs", 15, 1024),
    Case("pre-empted every half hour, 8 GPUs", 19, 8, HOURS_BETWEEN * 2 / 8),
)


def young(save: float, between: float) -> float:
    """The seconds from one save to the next that cost least, where failures are rare."""
    return math.sqrt(2 * save * between)


def daly(save: float, between: float) -> float:
    """Daly's higher-order estimate of the same: as good where failures are not rare."""
    if save >= 2 * between:
        return between
    x = math.sqrt(save / (2 * between))
    return math.sqrt(2 * save * between) * (1 + x / 3 + x * x / 9) - save


def simulated(
    work: float, between: float, every: float, save: float, restart: float, seed: int
) -> float:
    """The seconds that `work` seconds take with a save after each `every` of them."""
    random = np.random.default_rng(seed)
    done = clock = 0.0
    failure = random.exponential(between)
    while done < work:
        piece = min(every, work - done)
        needs = piece + (save if done + piece < work else 0.0)
        if clock + needs <= failure:
            clock, done = clock + needs, done + piece
            continue
        clock = failure + restart
        failure = clock + random.exponential(between)
    return clock


def overhead(case: Case, every: float, runs: int) -> tuple[float, float]:
    """The mean share of time that is lost, and its standard error."""
    work = case.hours * 3600
    found = [simulated(work, case.between, every, SAVE, RESTART, seed) for seed in range(runs)]
    lost = np.array(found) / work - 1
    return float(lost.mean()), float(lost.std(ddof=1) / math.sqrt(runs))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.failures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=400, help="of each cell (400)")
    args = parser.parse_args(argv)
    lost = " | ".join(f"{factor:g} x" for factor in FACTORS)
    print(f"| run | a failure every | Daly's interval | 30 s | {lost} |")
    print("| --- " * (4 + len(FACTORS)) + "|")
    for case in CASES:
        best = daly(SAVE, case.between)
        cells = [overhead(case, every, args.runs) for every in [30, *(best * f for f in FACTORS)]]
        said = " | ".join(f"{100 * mean:.2f} ± {100 * error:.2f}" for mean, error in cells)
        print(f"| {case.title} | {span(case.between)} | {span(best)} | {said} |", flush=True)
    return 0


def span(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    raise SystemExit(command_line(main))
