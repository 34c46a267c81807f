"""The paired bootstrap covers the truth as often as it says, and its words follow from the interval."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.special import stdtrit

from glore.train.verdict import Difference, difference, judge


def accuracy(counts):
    hits, samples = counts.double().unbind(-1)
    return hits / samples


def hits(chance):
    right = torch.rand(chance.shape) < chance
    return torch.stack([right.long(), torch.ones(chance.shape, dtype=torch.long)], dim=-1)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (5, 0.0), (2, 0.05), (3, 0.05), (5, 0.05)])
def test_the_interval_covers_the_true_difference(seeds, spread):
    covered = 0
    for _ in range(200):
        luck = spread * torch.randn(seeds, 1)
        hard = torch.rand(1, 300) * 0.4  # the same samples are hard for both, which pairing uses
        one, other = hits((0.8 + luck - hard).expand(seeds, 300)), hits((0.75 - hard).expand(seeds, 300))
        found = difference(one, other, accuracy, draws=300)
        covered += found.low <= 0.05 <= found.high
    assert covered / 200 >= 0.92


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_without_doubt_from_the_samples_it_is_students_interval(seeds):
    scores = torch.rand(seeds, 1, dtype=torch.double)
    one = torch.stack([scores, torch.ones_like(scores)], -1).expand(seeds, 4, 2)
    other = torch.tensor([0.5, 1.0], dtype=torch.double).expand(seeds, 4, 2)
    found = difference(one, other, accuracy)
    half_width = float(stdtrit(seeds - 1, 0.975) * scores.std()) / math.sqrt(seeds)
    assert found.mean == pytest.approx(float(scores.mean()) - 0.5)
    assert found.seed_variance == pytest.approx(float(scores.var()))
    assert (found.high - found.mean, found.mean - found.low) == pytest.approx((half_width, half_width), rel=0.02)


def test_pairing_makes_the_interval_narrow():
    right = torch.rand(1, 500) < 0.5
    one = torch.stack([right.long(), torch.ones_like(right).long()], -1)
    same = difference(one, one, accuracy)
    assert (same.mean, same.low, same.high, same.seeds, same.sample_variance) == (0.0, 0.0, 0.0, 1, 0.0)
    assert math.isnan(same.seed_variance)


def test_any_shape_of_counts():
    confusion = torch.randint(1, 9, (3, 20, 4, 4))
    found = difference(
        confusion, confusion.flip(1), lambda counts: counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-1, -2))
    )
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.low < 0 < found.high


@pytest.mark.parametrize("seeds", [1, 3])
def test_draws_without_a_score_are_left_out(seeds):
    counts = torch.zeros(seeds, 100, 2, dtype=torch.long)
    counts[:, :3] = 1  # most of the samples do not have what is scored: some draws have none
    found = difference(counts, counts, accuracy)
    assert (found.low, found.high) == (0, 0)
    nothing = difference(torch.zeros_like(counts), torch.zeros_like(counts), accuracy)
    assert judge([nothing], margin=0.005) == "cannot tell: the score is not defined on these test samples"


def test_samples_have_to_match():
    with pytest.raises(ValueError, match="cannot pair"):
        difference(torch.ones(1, 4, 2), torch.ones(1, 5, 2), accuracy)


def d(mean, low, high, seeds=3, seed_variance=1e-4, sample_variance=1e-6, samples=1000):
    return Difference(mean, low, high, seeds, seed_variance, sample_variance, samples)


@pytest.mark.parametrize(
    ("against", "word"),
    [
        ([d(0.03, 0.01, 0.05)], "worth it"),
        ([d(0.03, 0.01, 0.05), d(0.02, 0.01, 0.03)], "worth it"),
        ([d(0.03, 0.01, 0.05), d(0.0, -0.003, 0.003)], "better, but so are as many weights without global reasoning"),
        ([d(-0.03, -0.05, -0.01)], "worse"),
        ([d(0.001, -0.003, 0.004)], "no difference"),
        ([d(0, 0, 0)], "no difference"),
        ([d(0, 0, 0, samples=12)], "cannot tell: it and the baseline agree on all test samples, and 12 are too few"),
        ([d(1, 1, 1, samples=12)], "worth it"),
        (
            [d(0.03, 0.01, 0.05), d(0, 0, 0, samples=50)],
            "cannot tell: it and the control agree on all test samples, and 50 are too few",
        ),
        ([d(0.02, -0.01, 0.05)], "cannot tell, about 1 more seed needed"),
        ([d(0.006, -0.01, 0.05, seed_variance=4e-4)], "cannot tell, about 49 more seeds needed"),
        (
            [d(0.001, -0.1, 0.1, sample_variance=1e-2)],
            "cannot tell, and more seeds alone will not: the test set is too small",
        ),
        ([d(0.002, 0.001, 0.004)], "no difference"),
        ([d(0.03, -0.01, 0.05, seeds=1, seed_variance=math.nan)], "cannot tell, more seeds needed"),
    ],
)
def test_words(against, word):
    assert judge(against, margin=0.005) == word


def test_a_difference_is_told_in_points():
    assert str(d(0.012, 0.004, 0.0204)) == "+1.2 (95 % 0.4 … 2.0)"
    assert str(d(-0.012, -0.0204, 0.004)) == "−1.2 (95 % −2.0 … 0.4)"


def test_few_samples_that_differ_tell_nothing():
    """Four pictures that one alone gets right of a hundred: a sign test has p = 0.125."""
    one = torch.zeros(1, 100, 2, dtype=torch.long)
    one[..., 1], other = 1, one.clone()
    other[..., 1] = 1
    one[0, :4, 0] = 1
    told = difference(one, other, lambda sums: sums[..., 0].double() / sums[..., 1])
    few = "cannot tell: on all but 4 test samples it and the baseline agree"
    assert judge([told], 0.005) == few
    assert judge([replace(told, differing=50), told], 0.005) == few.replace("baseline", "control")
    worse = replace(told, mean=-0.05, low=-0.07, high=-0.03, differing=50)
    assert judge([worse, replace(told, differing=3)], 0.005) == "worse"
