"""Ridge regression by its closed form, against scikit-learn's and fits without each picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import ridge
from engine.ridge import fit_ridge


def clusters(n: int, width: int, classes: int = 3, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features around a centre a class, some large and some the same for all, and the labels."""
    torch.manual_seed(0)
    labels = torch.arange(n) % classes
    features = torch.randn(classes, width)[labels] + spread * torch.randn(n, width)
    features = features * torch.linspace(0.1, 30, width) + 5
    features[:, 0] = 7.0
    return features, labels


def plain(features: Tensor, labels: Tensor, k: float, queries: Tensor) -> np.ndarray:
    """scikit-learn's answers, for features that are standardised already."""
    from sklearn.linear_model import Ridge

    targets = F.one_hot(labels, 3).double()
    return Ridge(alpha=k, solver="svd").fit(features, targets).predict(queries)


@pytest.mark.parametrize(("n", "width"), [(30, 80), (60, 8)])
def test_it_is_scikit_learns(n: int, width: int) -> None:
    """From more features than pictures and fewer, each by its own decomposition."""
    features, labels = clusters(n, width)
    x = features.double()
    x = ((x - x.mean(0)) / x.std(0, correction=0)).nan_to_num()
    found = fit_ridge(features, labels, 3)
    wanted = torch.from_numpy(plain(x, labels, found.strength * float((x**2).sum()), x))
    scale = (found(features) - found(features).mean(1, keepdim=True)).double()
    centred = wanted - wanted.mean(1, keepdim=True)
    s = (scale * centred).sum() / (centred**2).sum()
    torch.testing.assert_close(scale, s * centred, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [40, 12])
def test_what_is_left_out_is_left_out(width: int) -> None:
    """One picture at a time, and copies together: as a fit without them answers."""
    n, k = 24, 0.7
    features, labels = clusters(n, width)
    features[3] = features[15] = features[9]
    labels[3] = 1
    x = features.double()
    x = ((x - x.mean(0)) / x.std(0, correction=0)).nan_to_num()
    targets = F.one_hot(labels, 3).double()
    copies = torch.tensor([3, 9, 15])
    errors = ridge.Basis(features).left_out_errors(targets - targets.mean(0), k, [copies])
    for i in range(n):
        out = set(copies.tolist()) if i in copies else {i}
        rest = torch.tensor([j for j in range(n) if j not in out])
        answer = torch.from_numpy(plain(x[rest], labels[rest], k, x[i : i + 1]))[0]
        torch.testing.assert_close(targets[i] - errors[i], answer, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("width", [90, 20])
def test_a_picture_is_left_out_with_its_views(width: int) -> None:
    """And its copies with theirs; the plain view, the first, is what is answered."""
    n, views = 24, 3
    features, labels = clusters(n * views, width)
    features, labels = features.view(n, views, width), torch.arange(n) % 3
    found = fit_ridge(features, labels, 3, [torch.tensor([3, 9])])
    x = features.flatten(0, 1).double()
    x = ((x - x.mean(0)) / x.std(0, correction=0)).nan_to_num()
    k, rows = found.strength * float((x**2).sum()), x.view(n, views, width)
    answers = []
    y = F.one_hot(labels, 3).double()
    for i in range(n):
        rest = torch.tensor([j for j in range(n) if j not in ({3, 9} if i in (3, 9) else {i})])
        known = labels[rest].repeat_interleave(views)
        z = torch.from_numpy(plain(rows[rest].flatten(0, 1), known, k, rows[i, :1]))[0]
        z -= y[rest].mean(0)  # of a fit whose intercept is nothing, which tells no label
        answers.append(z * (y.sum(0) / y[rest].sum(0)).sqrt() + y.mean(0))
    z = torch.stack(answers)
    left_out = found.left_out.double() + ridge.prior(y.mean(0))
    scale = (left_out[0, 0] - left_out[0, 1]) / (z[0, 0] - z[0, 1])
    torch.testing.assert_close(left_out, scale * z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes, each", [(10, 2), (10, 5), (5, 5), (2, 20)])
@pytest.mark.parametrize("views", [1, 4])
def test_of_noise_left_out_answers_are_right_by_chance(classes: int, each: int, views: int) -> None:
    """Which class has one less in the fit without a picture tells its label: by logarithms of the
    fit's own shares all of them were right."""
    labels = torch.arange(classes).repeat_interleave(each)
    right = []
    for seed in range(12):
        noise = torch.Generator().manual_seed(seed)
        features = torch.randn(len(labels), views, 300, generator=noise)
        left_out = fit_ridge(features, labels, classes).left_out
        right.append((left_out.argmax(1) == labels).float().mean().item())
    assert abs(sum(right) / len(right) - 1 / classes) < 0.08


@pytest.mark.parametrize("n", [12, 40])
def test_both_decompositions_say_the_same(n: int) -> None:
    features, labels = clusters(n, 60)
    y, groups = F.one_hot(labels, 3).double(), [torch.tensor([0, 5]), torch.tensor([1, 4])]
    y, groups = y - y.mean(0), [*groups, torch.tensor([2, 7, 9])]
    dual, basis = ridge.Dual(features), ridge.Basis(features)
    assert dual.total == pytest.approx(basis.total)
    for k in (1e-5 * dual.total, 1e-2 * dual.total):
        torch.testing.assert_close(
            dual.left_out_errors(y, k, groups), basis.left_out_errors(y, k, groups)
        )
        torch.testing.assert_close(dual.solution(y, k), basis.solution(y, k))


def test_the_left_out_answers_estimate_what_new_pictures_get() -> None:
    features, labels = clusters(600, 100, spread=4.0)
    found = fit_ridge(features[:200], labels[:200], 3)
    estimate = (found.left_out.argmax(1) == labels[:200]).float().mean()
    new = (found(features[200:]).argmax(1) == labels[200:]).float().mean()
    known = (found(features[:200]).argmax(1) == labels[:200]).float().mean()
    assert abs(estimate - new) < 0.06 < known - new


def test_logits_are_calibrated() -> None:
    """The surest answers are right as often as they say."""
    features, labels = clusters(900, 60, spread=5.0)
    found = fit_ridge(features[:300], labels[:300], 3)
    sure, answer = found(features[300:]).softmax(1).max(1)
    right = (answer == labels[300:]).float()
    assert abs(sure.mean() - right.mean()) < 0.05 and 0.4 < right.mean() < 0.97


@pytest.mark.parametrize("each", [4, 8])
def test_a_few_that_are_all_right_make_nothing_sure(each: int) -> None:
    """Where each left-out answer is right a larger scale is always likelier: new pictures that are
    wrong would be as sure (a nat and more a picture, 0.99 sure where 0.9 are right)."""
    losses, gaps = [], []
    for seed in range(40):
        torch.manual_seed(seed)
        labels = torch.arange(400) % 2
        features = torch.randn(2, 60)[labels] + 3 * torch.randn(400, 60)
        known = 2 * each
        found = fit_ridge(features[:known], labels[:known], 2)
        if (found.left_out.argmax(1) != labels[:known]).any():
            continue
        answers = found(features[known:])
        losses.append(F.cross_entropy(answers, labels[known:]).item())
        sure, answer = answers.softmax(1).max(1)
        gaps.append((sure.mean() - (answer == labels[known:]).float().mean()).item())
    assert len(losses) > 2
    assert np.mean(losses) < 0.69 and np.mean(gaps) < 0.1  # a guess: 0.69


def test_a_class_of_one_picture_leaves_the_others_as_they_are() -> None:
    """Without it nothing is known of its class, so its answer says nothing of the scale."""
    features, labels = clusters(300, 200, spread=4.0)
    common, rare = (labels != 2).nonzero()[:, 0], (labels == 2).nonzero()[:, 0]
    train, test = common[:30], common[30:]
    found = []
    for many in (1, 10):
        some = torch.cat([train, rare[:many]])
        sure, answer = fit_ridge(features[some], labels[some], 3)(features[test]).softmax(1).max(1)
        found.append(((answer == labels[test]).float().mean(), sure.mean()))
    (right, sure), (wanted, as_sure) = found
    assert right > wanted - 0.05 and sure > as_sure - 0.05  # 0.69, 0.63; 0.88, 0.83


@pytest.mark.parametrize("width", [50, 5])
def test_of_features_that_are_all_the_same_half_is_right(width: int) -> None:
    labels = torch.arange(20) % 2
    found = fit_ridge(torch.ones(20, width), labels, 2)
    assert (found.left_out.argmax(1) == labels).float().mean() == 0.5


def test_a_rare_class_is_not_forgotten() -> None:
    """One-hot regression leans to the common classes; its logits don't."""
    features, labels = clusters(900, 60, spread=5.0)
    common = (labels != 2).nonzero()[:, 0]
    rare = (labels == 2).nonzero()[:, 0]
    train = torch.cat([common[:300], rare[:20]])
    test = torch.cat([common[300:], rare[100:]])
    found = fit_ridge(features[train], labels[train], 3)
    answers = found(features[test]).argmax(1)
    recalls = [(answers[labels[test] == c] == c).float().mean().item() for c in range(3)]
    plain_z = F.linear(
        features[test],
        found.weight,
        found.bias + ridge.prior(F.one_hot(labels[train], 3).double().mean(0)).float(),
    ).argmax(1)
    plain_recall = (plain_z[labels[test] == 2] == 2).float().mean().item()
    assert min(recalls) > 0.5 and plain_recall < recalls[2] - 0.1


def test_few_pictures_a_class_are_not_held_against_it() -> None:
    """Without one of two, its class is half as common as the others."""
    features, labels = clusters(1200, 200, classes=20, spread=3.0)
    for known in (40, 80):
        found = fit_ridge(features[:known], labels[:known], 20)
        estimate = (found.left_out.argmax(1) == labels[:known]).float().mean()
        new = (found(features[known:]).argmax(1) == labels[known:]).float().mean()
        assert 0.6 * new < estimate < new + 0.1 and new > 0.3  # 0.05 by the shares of all


def test_nothing_to_learn_from_is_no_error() -> None:
    """Features that are all the same, and a picture a class."""
    same = fit_ridge(torch.ones(6, 4), torch.arange(6) % 3, 3)
    assert same(torch.ones(2, 4)).isfinite().all()
    single = fit_ridge(torch.randn(3, 4), torch.arange(3), 3)
    assert single.left_out.isfinite().all() and single.weight.isfinite().all()
    together = fit_ridge(torch.randn(6, 4), torch.arange(6) % 3, 3, [torch.arange(6)])
    assert together.left_out.isfinite().all() and together.weight.isfinite().all()


def test_a_class_without_pictures_is_never_answered() -> None:
    """Whatever the others' answers are: nothing is known of it."""
    features, labels = clusters(60, 20, spread=3.0)
    found = fit_ridge(features, labels, 5)
    assert int(found.left_out.argmax(1).max()) < 3
    assert int(found(torch.randn(500, 20) * 30).argmax(1).max()) < 3
    known = fit_ridge(features, labels, 3)
    torch.testing.assert_close(found.left_out[:, :3].argmax(1), known.left_out.argmax(1))
