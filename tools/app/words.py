"""What the page says of an answer, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from answers import Row
from certainty.sure import FEWEST, WIDE
from classifier import Answer, Classifier
from metrics import wilson
from utils import some

BARS = 10  # classes with a bar, at most


@dataclass(frozen=True)
class Said:
    """An answer in words: what it is, what that means, the likeliest classes with their
    probabilities, and the rest in a sentence."""

    headline: str
    kind: str  # label, unsure or unlike
    meaning: str
    could_be: str
    bars: list[tuple[str, float]]
    rest: str


def said(answer: Answer, classifier: Classifier) -> Said:
    """An answer of the classifier in words."""
    order = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    left = order[BARS:]
    together = percent(sum(probability for _, probability in left))
    rest = f"{len(left):,} more classes, {together} together" if left else ""
    headline, kind = answer.label, "label"
    if answer.strange:
        headline, kind = "Unlike anything it has learned", "unlike"
    elif answer.unsure:
        headline, kind = "Unsure", "unsure"
    meaning = meant(answer, classifier)
    return Said(headline, kind, meaning, could_be(answer, classifier), order[:BARS], rest)


def meant(answer: Answer, classifier: Classifier) -> str:
    """What an answer means, in a sentence or two."""
    sure = percent(answer.probability)
    if answer.strange and answer.unlike is not None:
        return (
            f"{percent(answer.unlike)} of the known pictures that it was tested with are more like "
            f"what it has learned than this one. Had it to choose, it would say {answer.label}."
        )
    if answer.unsure:
        return (
            f"The likeliest is {answer.label}, at {sure}: less than the "
            f"{percent(classifier.min_confidence)} that an answer takes."
        )
    if classifier.certainty is None:
        return f"It gives this {sure}; nobody has measured how often that is right."
    every = classifier.certainty.meant(0.0, None)
    tested = every.images
    low, high = wilson(every.right / tested, tested) if tested else (0.0, 1.0)
    if tested < FEWEST or high - low > WIDE:
        return f"It gives this {sure}; {tested} held-out pictures are too few to say if that is so."
    return f"Of answers that are as sure as this one, about {sure} are right."


def could_be(answer: Answer, classifier: Classifier) -> str:
    """The set of answers, and what it promises; nothing where that was not measured, or of a
    picture of which nothing is known."""
    if classifier.certainty is None or answer.strange:
        return ""
    if len(answer.could_be) == len(classifier.classes) > 1:
        return "In nine of ten cases it is one of its classes; it can't leave out any."
    if len(answer.could_be) == 1:
        return f"Nothing but {answer.could_be[0]} is likely enough to be considered."
    return f"In nine of ten cases it is one of {some(answer.could_be, 6)}."


def summed(rows: Sequence[Row]) -> str:
    """How many there are of each answer."""
    counts = Counter(row.said for row in rows if row.said is not None)
    parts = [f"{n:,} {name}" for name, n in counts.most_common()]
    unreadable = sum(row.problem is not None for row in rows)
    parts = [some(parts)] if parts else []
    parts += [f"{unreadable:,} can't be read"] if unreadable else []
    return f"{len(rows):,} picture{'' if len(rows) == 1 else 's'}: {', '.join(parts)}"


def percent(share: float) -> str:
    """A share, never rounded to none or all."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"
