"""Did it learn? Simple rivals, a control with shuffled labels, and the sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config import RECIPES, SHORT
from engine.heads import add_layers_head, answers, read_depths, solved
from engine.job import Job, Setting
from engine.rivals import rivals, some_for_rivals
from engine.side import Side, side_job
from metrics import chance_of_sum, paired_chance, said_chance, scores, wilson
from model import VisionTransformer
from tokens.cache import Loaders, TokenLoader, class_tokens
from utils import seed_everything


def paired(right: np.ndarray, rival: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """A network against a rival on the same pictures with these `labels` (n,), by which of them
    each gets right (n,): McNemar's test and, each class counting the same, by how much the mean of
    the recalls is better, and the test of that: where they differ the signs are fair coins."""
    alone, rivals_alone = int((right & ~rival).sum()), int((rival & ~right).sum())
    p = paired_chance(alone, rivals_alone)
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    ahead = (right.astype(float) - rival) / (counts[place] * len(counts))
    balanced_p = chance_of_sum(ahead[ahead != 0])
    return {
        "only_network": alone,
        "only_rival": rivals_alone,
        "p": round(p, 6),
        "balanced_lead": round(float(ahead.sum()), 6),
        "balanced_p": round(balanced_p, 6),
    }


LEARNED, NOT_LEARNED = "learned", "not learned"
BETTER, LEVEL, WORSE = (
    f"{how} its strongest rival" for how in ("better than", "level with", "worse than")
)
TOO_FEW = "too few pictures to tell"
NO_BETTER = "no better than its simplest rival"  # what older runs say
FEW_IMAGES = 10  # to train on in a class, or to judge by: fewer, and a result is a matter of luck
# Of a class, where recalls alone decide: answers that ignore the picture pass in up to 14 % of the
# cases with one picture of the rare class, 9 with three, 5 with five.
FEW_RARE = 5
FAR_OFF = 10.0  # times the recipe's learning rate
SURE = 0.05  # what happens by chance less often is more than chance
ONE_ANSWER = 0.9  # of the pictures: a network that gives so many the same answer knows no other
UNEQUAL = 0.05  # by so much always the largest class may beat chance, before recalls are said
NAMES = {
    "nearest_neighbours": "nearest neighbours",
    "logistic_regression": "logistic regression on the frozen features",
    "layers_head": "the head over layers alone",
}


def verdict(
    numbers: dict[str, Any], lr: float, recipe_lr: float, head_alone: bool = False
) -> dict[str, Any]:
    """Whether a network learned, and one sentence that says it with the numbers and, where it did
    not, the likely reasons.

    `numbers`: part, images, accuracy, interval, chance, largest_class, train_accuracy,
    train_images_of_the_rarest_class; where they were measured the rivals' accuracies, `against`
    (each rival's `paired`) and shuffled_labels; of unequal classes balanced_accuracy, its interval
    and chance, images_of_the_rarest_class and one_answer; steps and recipe_steps where some were
    taken; learned_before where an earlier run had. `head_alone`: no block trained. `learned`: the
    whole interval lies above what a guess reaches, there are enough images to say so, and no rival
    is better by more than chance.
    """
    rival = strongest(numbers)
    standing = None if rival is None else stands(numbers["against"][rival], _unequal(numbers))
    why = ""
    few = too_few(numbers)
    if few or not knows_more_than_a_guess(numbers):
        says = TOO_FEW if few else NOT_LEARNED
        reasons = _reasons(numbers, lr, recipe_lr)
        # What is short or far off is no reason for few pictures, which come last.
        standing, why = None, reasons[-1] if says == TOO_FEW else f"likely: {', or '.join(reasons)}"
    else:
        says = WORSE if standing == WORSE else LEARNED
        if rival is not None and (standing == WORSE or _no_better(numbers, rival)):
            why = _advice(numbers, rival, lr, recipe_lr, head_alone)
    parts = [_reached(numbers), _against(numbers, rival)]
    if rival is not None and standing is not None:
        parts.append(_pairs(numbers, rival, standing if says == LEARNED else None))
    parts += [part for part in (why, _leak(numbers), _known_before(numbers)) if part]
    sentence = f"{says}: {'; '.join(parts)}"
    return {"verdict": says, "verdict_sentence": sentence, "against_strongest_rival": standing}


def too_few(numbers: dict[str, Any]) -> bool:
    """Whether there are too few pictures to tell; where recalls alone would say that it learned, of
    the rarest class, which is hit by luck."""
    if numbers["images"] < FEW_IMAGES:
        return True
    by_recalls = numbers["interval"][0] <= _guess(numbers) and knows_more_than_a_guess(numbers)
    return by_recalls and numbers.get("images_of_the_rarest_class", FEW_RARE) < FEW_RARE


def knows_more_than_a_guess(numbers: dict[str, Any]) -> bool:
    """Whether its interval lies above chance and above the largest class; or where that class is
    most of the pictures, whether the mean of the recalls does, which it can't raise."""
    if numbers["interval"][0] > _guess(numbers):
        return True
    return _unequal(numbers) and numbers["balanced_interval"][0] > numbers["balanced_chance"]


def strongest(numbers: dict[str, Any]) -> str | None:
    """The rival of the highest accuracy; of unequal classes of the highest mean of the recalls."""
    names = (name for name in NAMES if name in numbers)
    return max(names, key=lambda name: _compared(numbers, name)[1], default=None)


def stands(pair: dict[str, Any], unequal: bool = False) -> str:
    """BETTER or WORSE where that is more than chance, else LEVEL; of `unequal` classes by the mean
    of the recalls: what answers the largest class more often is right more often."""
    lead, p = pair["only_network"] - pair["only_rival"], pair["p"]
    if unequal:
        lead, p = pair["balanced_lead"], pair["balanced_p"]
    return LEVEL if p >= SURE else BETTER if lead > 0 else WORSE


def _compared(numbers: dict[str, Any], rival: str) -> tuple[float, float]:
    """What the network and a rival reach: their accuracies, of unequal classes mean recalls."""
    if not _unequal(numbers):
        return numbers["accuracy"], numbers[rival]
    ours = numbers["balanced_accuracy"]
    return ours, ours - numbers["against"][rival]["balanced_lead"]


def _no_better(numbers: dict[str, Any], rival: str) -> bool:
    ours, theirs = _compared(numbers, rival)
    return ours <= theirs < 1


def _guess(numbers: dict[str, Any]) -> float:
    return max(numbers["chance"], numbers["largest_class"])


def _unequal(numbers: dict[str, Any]) -> bool:
    apart = numbers["largest_class"] - numbers["chance"] > UNEQUAL
    return apart and "balanced_accuracy" in numbers


def _reached(numbers: dict[str, Any]) -> str:
    low, high = numbers["interval"]
    got = f"{numbers['part']} accuracy {numbers['accuracy']:.3f} ({low:.3f} to {high:.3f})"
    if _unequal(numbers):
        low, high = numbers["balanced_interval"]
        got += f", balanced {numbers['balanced_accuracy']:.3f} ({low:.3f} to {high:.3f})"
    return got


def _against(numbers: dict[str, Any], rival: str | None) -> str:
    against = f"a guess reaches {_guess(numbers):.3f}"
    if _unequal(numbers):
        against += f" (always the largest class), balanced {numbers['balanced_chance']:.3f}"
    if rival is not None:
        against += f", {NAMES[rival]} {numbers[rival]:.3f}"
        if _unequal(numbers):
            against += f", balanced {_compared(numbers, rival)[1]:.3f}"
    if "shuffled_labels" in numbers:
        steps = numbers.get("shuffled_steps")
        short = f" ({steps:,} steps)" if steps else ""
        against += f", the same training on shuffled labels{short} {numbers['shuffled_labels']:.3f}"
    return against


def _pairs(numbers: dict[str, Any], rival: str, standing: str | None) -> str:
    """The strongest rival on the same pictures, and how the network stands to it."""
    pair, images = numbers["against"][rival], numbers["images"]
    if not pair["only_network"] + pair["only_rival"]:
        return f"{standing} (both get the same of the {images} pictures right)"
    said = (
        f"of {images} pictures {pair['only_network']} are right by the network alone, "
        f"{pair['only_rival']} by the rival alone"
    )
    test = f"McNemar's exact test, {said_chance(pair['p'])}"
    if _unequal(numbers):
        test = f"McNemar's test, each class counting the same, {said_chance(pair['balanced_p'])}"
    return f"{said} ({test})" if standing is None else f"{standing} ({said}; {test})"


def _leak(numbers: dict[str, Any]) -> str | None:
    """What is wrong where shuffled labels teach something: more than half of what the true ones do.

    Less of it is luck: a control errs by whole groups of like images.
    """
    shuffled, guess = numbers.get("shuffled_labels", 0.0), _guess(numbers)
    halfway = (guess + numbers["accuracy"]) / 2
    if shuffled < halfway or wilson(shuffled, numbers["images"])[0] <= guess:
        return None
    return (
        "beware: shuffled labels should teach nothing, so the labels are known from elsewhere "
        "(images of the reported part among the training images?)"
    )


def _known_before(numbers: dict[str, Any]) -> str | None:
    """What is wrong where the weights that it began with are an earlier training's."""
    if not (known := numbers.get("learned_before")):
        return None
    return (
        f"beware: {known} of the {numbers['images']} pictures were learned before, in the run "
        "whose weights it began with"
    )


def _advice(
    numbers: dict[str, Any], rival: str, lr: float, recipe_lr: float, head_alone: bool
) -> str:
    """What may help where a rival does as well, or better."""
    hints = [hint for hint in (_far_off(lr, recipe_lr), _short(numbers)) if hint]
    if rival == "layers_head":
        hints.append("that head may do (train.head=layers)")
    elif not hints and not head_alone:
        hints.append("a head alone (train.finetune_blocks=0) may do")
    return ", and ".join(hints)


def _far_off(lr: float, recipe_lr: float) -> str | None:
    if recipe_lr / FAR_OFF <= lr <= recipe_lr * FAR_OFF:
        return None
    size = "high" if lr > recipe_lr else "low"
    return f"the learning rate {lr:g} is too {size} ({recipe_lr:.2g} is usual)"


def _short(numbers: dict[str, Any]) -> str | None:
    taken, usual = numbers.get("steps"), numbers.get("recipe_steps")
    if taken is None or usual is None or taken >= SHORT * usual:
        return None
    plural = "" if taken == 1 else "s"
    return f"the training was short ({taken:,} step{plural}, and the recipe takes {usual:,})"


def _reasons(numbers: dict[str, Any], lr: float, recipe_lr: float) -> list[str]:
    """Why nothing was learned, or nothing can be said, the likeliest first."""
    fewest, trained = numbers["train_images_of_the_rarest_class"], numbers["train_accuracy"]
    guess = _guess(numbers)
    # Halfway to knowing all by heart: below, the training images themselves were not learned.
    fits = trained > (1 + guess) / 2
    rivals_know = any(
        wilson(numbers[n], numbers["images"])[0] > guess for n in NAMES if n in numbers
    )
    few = []
    if fewest < FEW_IMAGES and not rivals_know:  # else they are enough for a rival
        few = [f"{fewest} to train on in the smallest class"]
    rare = numbers.get("images_of_the_rarest_class", FEW_IMAGES)
    if numbers["images"] < FEW_IMAGES:
        few.append(f"{numbers['images']} to judge by")
    elif _unequal(numbers) and rare < FEW_IMAGES:
        few.append(f"{rare} of the smallest class to judge by")
    off, short = _far_off(lr, recipe_lr), None if fits else _short(numbers)
    reasons = [reason for reason in (off, short) if reason]
    reasons += [f"too few images ({', '.join(few)}): add pictures"] if few else []
    if reasons and (off or few or rivals_know):
        return reasons
    if numbers.get("one_answer", 0.0) > ONE_ANSWER and _unequal(numbers) and not fits:
        reasons.append(
            f"it gives {numbers['one_answer']:.3f} of the pictures one and the same answer, as "
            "most are of one class (train.class_weights=balanced, or more pictures of the others)"
        )
    elif not fits and rivals_know:
        reasons.append("too little trains (raise train.finetune_blocks or max_epochs)")
    elif not fits:
        reasons.append(
            "the classes look alike to it or their labels are noise (it gets "
            f"{trained:.3f} of its own training images right)"
        )
    else:
        reasons.append(
            f"the labels don't follow from the pictures (it knows {trained:.3f} of its training "
            "images by heart, which does not help with others)"
        )
    return reasons


def layers_right(
    net: VisionTransformer, training: TokenLoader, loader: TokenLoader
) -> dict[str, np.ndarray]:
    """Which pictures the head over layers that a training part asks for, or the network's own, gets
    right (m,); none without frozen blocks to read."""
    if not read_depths(net):
        return {}
    found = answers(net, loader, net.layers or solved(net, training))
    return {"layers_head": (found.argmax(1) == loader.dataset).numpy()}


def dealt(labels: Tensor) -> Tensor:
    """The labels (n,) shuffled so that the images of each class get all labels in their shares.

    A plain shuffle gives a class more of one label by chance, which a network that knows the
    classes apart then answers for the whole class: accuracies anywhere between 0 and 1.
    """
    order = torch.randperm(len(labels))
    order = order[labels[order].argsort(stable=True)]  # class by class
    counts = torch.bincount(labels)
    turns = torch.cat([(torch.arange(c) + torch.rand(c)) / c for c in counts.tolist()])
    sequence = torch.repeat_interleave(torch.arange(len(counts)), counts)[turns.argsort()]
    return torch.empty_like(labels).scatter_(0, order, sequence)


@dataclass(frozen=True)
class Judge:
    """Says whether a network learned. Keeps what it began as: the network before its first step,
    and the setting that a search found, None where the config named its own."""

    before: VisionTransformer
    setting: Setting | None

    def control(self, job: Job, loaders: Loaders) -> Side | None:
        """The same training on shuffled labels, still to be taken: no step where a head over layers
        answers alone. None where there is nothing to judge by."""
        training, train = loaders["train"], job.train
        if not (train.verdict and isinstance(training, TokenLoader)):
            return None
        seed_everything(train.seed)
        everyone = np.arange(len(training.dataset))
        batches = training.training(train, everyone, dealt(training.dataset))
        steps = min(job.steps, RECIPES["finetune"].steps)
        control = side_job(self.before, self.setting, train, batches, steps)
        return Side([control], batches, 0 if train.head == "layers" else steps)

    def verdict(
        self,
        job: Job,
        loaders: Loaders,
        scored: dict[str, Any],
        right: np.ndarray,
        control: Side | None,
    ) -> dict[str, Any]:
        """The verdict, and the numbers behind it: the network's accuracy on the part that is
        reported, where it is `right` (n,), against chance, the largest class, simple rivals and the
        `control`, which is trained by now. Rivals and control need cached tokens, else they are
        left out.
        """
        train, before = job.train, self.before
        loader, training = loaders[scored["part"]], loaders["train"]
        numbers = dict(scored)
        if control and isinstance(training, TokenLoader) and isinstance(loader, TokenLoader):
            some = some_for_rivals(len(training.dataset))
            learned = class_tokens(before, training.plain(some), job.device)
            asked = class_tokens(before, loader, job.device)
            known, labels, queries, targets = (found.numpy() for found in (*learned, *asked))
            found = rivals(known, labels, queries, targets, training.groups[some])
            if train.head != "layers":
                found |= layers_right(job.net, training.plain(some), loader)
                numbers["head"] = train.head
            numbers |= {name: float(theirs.mean()) for name, theirs in found.items()}
            numbers["against"] = {
                name: paired(right, theirs, targets) for name, theirs in found.items()
            }
            numbers["shuffled_labels"] = self.shuffled(control, loader)
            if 0 < control.steps < job.steps:  # it ends where the recipe does
                numbers["shuffled_steps"] = control.steps
        assert train.lr != "auto"
        head_alone, rates = train.finetune_blocks == 0, (train.lr, train.recipe_lr)
        if train.head == "layers":  # nothing was trained, so no rate is wrong
            head_alone, rates = True, (1.0, 1.0)
        said = verdict(numbers, *rates, head_alone)
        return said | {"verdict_numbers": numbers}

    def shuffled(self, control: Side, loader: TokenLoader) -> float:
        """The accuracy of the same training on shuffled labels: chance, or something leaks."""
        [job] = control.jobs
        head = job.train.head
        if head != "class":
            add_layers_head(job.net, control.batches, head, self.setting)
        return scores(*job.answers(loader))["accuracy"]
