from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audit.labels import SUSPECT, doubts, left_out_answers, margin_of, planted_noise
from engine.ridge import Basis, fit_ridge
from tests.audit.clusters import clusters


def flipped(labels: torch.Tensor, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    bad = torch.zeros(len(labels), dtype=torch.bool)
    bad[torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]] = True
    return torch.where(bad, (labels + 1) % 3, labels), bad


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_planted_labels_are_found_and_named(share: float) -> None:
    features, labels = clusters(60)
    given, bad = flipped(labels, share, 1)
    found = doubts(Basis(features), given, 3)
    flagged = found.wrong >= SUSPECT
    assert (flagged & bad).sum() >= 0.8 * bad.sum()
    assert (flagged & ~bad).sum() <= 0.2 * bad.sum()
    assert torch.equal(found.suggested[flagged & bad], labels[flagged & bad])
    assert found.wrong.mean().item() == pytest.approx(share, abs=0.04)
    pairs = found.pairs  # the wrong labels are the next class's
    assert all(pairs[(c + 1) % 3].argmax() == c for c in range(3))


def test_right_labels_are_not_flagged() -> None:
    features, labels = clusters(60, apart=6.0)
    found = doubts(Basis(features), labels, 3)
    assert not (found.wrong >= SUSPECT).any()
    assert found.wrong.mean() < 0.01


def test_how_surely_a_label_is_wrong_is_how_often_it_is() -> None:
    said, true = [], []
    for seed in range(6):
        features, labels = clusters(60, apart=3.0, seed=seed)
        given, bad = flipped(labels, 0.1, seed)
        said.append(doubts(Basis(features), given, 3).wrong)
        true.append(bad.float())
    wrong, bad = torch.cat(said), torch.cat(true)
    for low, high in ((0.0, 0.1), (0.1, 0.9), (0.9, 1.01)):
        some = (low <= wrong) & (wrong < high)
        assert wrong[some].mean().item() == pytest.approx(bad[some].mean().item(), abs=0.12)


def test_wrong_labels_do_not_speak_for_one_another() -> None:
    """A first fit believes them; asked again, the answers are nearer to the truth's."""
    features, labels = clusters(40, apart=3.0)
    given, bad = flipped(labels, 0.25, 3)
    basis = Basis(features)
    plain = margin_of(left_out_answers(basis, F.one_hot(given, 3).double(), given)[0], given)[0]
    found = doubts(basis, given, 3).margin
    n = int(bad.sum())
    hits = [int(bad[m.argsort(descending=True)[:n]].sum()) for m in (plain, found)]
    assert hits[1] >= hits[0]
    assert hits[1] >= 0.9 * n


def test_copies_with_the_same_wrong_label_are_no_witnesses() -> None:
    features, labels = clusters(20)
    copies = features[:1].repeat(6, 1)  # of the first picture, under another class
    x = torch.cat([features, copies])
    given = torch.cat([labels, torch.full((6,), 2)])
    group = torch.tensor([0, *range(len(features), len(x))])
    alone, together = (doubts(Basis(x), given, 3, groups) for groups in ((), [group]))
    assert (together.suggested[len(features) :] == 0).all()
    assert (together.margin[len(features) :] > 0).all()
    assert (together.margin > alone.margin)[len(features) :].all()


def test_left_out_answers_are_those_of_fits_without_the_picture() -> None:
    features, labels = clusters(8, apart=2.0)
    basis = Basis(features)
    targets = F.one_hot(labels, 3).double()
    k = 0.05 * basis.total
    z = targets - basis.left_out_errors(targets - targets.mean(0), k, ())
    x = (features.double() - basis.mean) / basis.spread
    for i in range(0, len(x), 5):
        rest = torch.arange(len(x)) != i
        mean, target = x[rest].mean(0), targets[rest].mean(0)
        a, b = x[rest] - mean, targets[rest] - target
        weight = torch.linalg.solve(a.T @ a + k * torch.eye(8), a.T @ b)
        assert torch.allclose(z[i], target + (x[i] - mean) @ weight, atol=1e-8)


def test_of_few_pictures_the_others_of_a_class_are_not_held_against_it() -> None:
    """A fit without one of 2 pictures has half as many of its class as of the others: by the shares
    of all, it leans away from it."""
    right = []
    for seed in range(10):
        features, labels = clusters(2, apart=6.0, seed=seed)
        targets = F.one_hot(labels, 3).double()
        answers = left_out_answers(Basis(features), targets, labels)[0]
        right.append((answers.argmax(1) == labels).double().mean().item())
    assert sum(right) / len(right) > 0.93


def test_noise_is_planted_as_often_as_asked_and_the_same_for_a_seed() -> None:
    labels = torch.arange(90) % 3
    believed = torch.full((90, 3), 1 / 3)
    noisy, bad = planted_noise(labels, believed, 0.1, 0)
    assert int(bad.sum()) == 9
    assert torch.equal(noisy != labels, bad)
    assert torch.equal(planted_noise(labels, believed, 0.1, 0)[0], noisy)
    assert not torch.equal(planted_noise(labels, believed, 0.1, 1)[0], noisy)


@pytest.mark.parametrize("share", [0.02, 0.15])
def test_of_classes_far_apart_each_wrong_label_is_sure(share: float) -> None:
    """Answers that had to explain the wrong labels, too, would doubt none of them."""
    features, labels = clusters(200, apart=12.0)
    given, bad = flipped(labels, share, 4)
    found = doubts(Basis(features), given, 3)
    assert torch.equal(found.wrong >= SUSPECT, bad)
    assert found.wrong.mean().item() == pytest.approx(share, abs=0.02)


def test_of_a_few_pictures_nothing_is_nearly_certain() -> None:
    features, labels = clusters(20, apart=8.0)
    given, bad = flipped(labels, 0.05, 0)
    found = doubts(Basis(features), given, 3)
    assert (found.wrong[bad] >= SUSPECT).all()
    assert found.wrong.max() < 0.85  # 3 of 60: (3 + 1) / (3 + 2)


def test_classes_of_few_pictures_do_not_fail() -> None:
    features, labels = clusters(10)
    some = torch.tensor([i for i in range(30) if labels[i] != 2 or i == 2])
    found = doubts(Basis(features[some]), labels[some], 3)
    assert torch.isfinite(found.wrong).all()
    assert fit_ridge(features[some], labels[some], 3).left_out.isfinite().all()
