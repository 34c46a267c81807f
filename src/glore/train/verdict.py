"""Does a variant do better than the baseline? A difference with its interval, and what it means.

The interval adds up two doubts. How far the mean difference of S seeds may lie from that of all seeds is told by
Student's distribution with S − 1 degrees of freedom. What other test samples would change for all seeds alike is told
by a paired bootstrap: each draw takes as many test samples as there are, with replacement and the same ones for both
variants, and computes both scores from them for each seed. What the choice of samples changes for one seed only is in
the spread of the seeds already, so the draws are shrunk by its share of their variance. As few seeds may be close by
chance, the interval is at least as wide as the draws alone would make it. With one seed it covers the test samples
only. Draws in which a score is not defined, as the IoU of a class that is not among the drawn samples, are left out.
Source: Student, "The probable error of a mean", Biometrika 1908; Efron, Tibshirani, "An Introduction to the Bootstrap",
1993, chapters 8 and 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

DRAWS = 2000
FEWEST = 6  # samples that differ: by a sign test, fewer of one sign may be chance
Z = 1.96  # the 97.5 % point of a normal distribution


@dataclass(frozen=True)
class Difference:
    """The score of a variant minus that of another, in shares of 1.

    Args:
        mean: over seeds.
        low: lower end of the 95 % interval; nan if the score is not defined on these samples.
        high: upper end.
        seeds: how many.
        seed_variance: of the difference from seed to seed, at least what comes of the samples; nan for one seed.
        sample_variance: of the difference, from the choice of test samples, which more seeds do not lessen.
        samples: how many.
        differing: samples of which the two say different things for some seed.
    """

    mean: float
    low: float
    high: float
    seeds: int
    seed_variance: float
    sample_variance: float
    samples: int
    differing: int = FEWEST

    def __str__(self) -> str:
        told = f"{100 * self.mean:+.1f} (95 % {100 * self.low:.1f} … {100 * self.high:.1f})"
        return told.replace("-", "−")


def difference(one: Tensor, other: Tensor, score: Callable[[Tensor], Tensor], *, draws: int = DRAWS) -> Difference:
    """The paired difference of two variants.

    Args:
        one: what each test sample adds to the score, for each seed: (seeds, samples, *counts).
        other: the same of the other variant, with the same seeds and samples in the same order.
        score: gives scores (*sums) from sums of counts (*sums, *counts).
        draws: of the bootstrap.

    Raises:
        ValueError: the two do not have the same seeds and samples.
    """
    if one.shape != other.shape:
        raise ValueError(f"cannot pair samples and counts of shape {tuple(one.shape)} with {tuple(other.shape)}")
    seeds, samples = one.shape[:2]
    differing = int((one != other).flatten(2).any(2).any(0).sum())
    generator = torch.Generator().manual_seed(0)
    apart = score(one.sum(1)) - score(other.sum(1))  # (seeds,)
    mean, seed_variance = float(apart.mean()), float(apart.var()) if seeds > 1 else math.nan
    found = []
    for part in torch.arange(draws).split(100):
        taken = torch.randint(samples, (len(part), samples), generator=generator)
        weights = torch.zeros(len(part), samples, dtype=torch.double).scatter_add_(
            1, taken, torch.ones(taken.shape).double()
        )
        drawn = score(_weighted(weights, one)) - score(_weighted(weights, other))  # (draws, seeds)
        found.append(drawn[drawn.isfinite().all(1)])
    drawn = torch.cat(found)
    if len(drawn) < 2:
        return Difference(mean, math.nan, math.nan, seeds, math.nan, math.nan, samples, differing)
    means = drawn.mean(1)
    sample_variance = float(means.var())
    ends = torch.tensor([0.025, 0.975], dtype=torch.double)
    low, high = means.quantile(ends).tolist()
    if seeds > 1:
        own = max(0.0, float(drawn.var(1).mean()) - seed_variance) / seeds  # of what is not common to all seeds
        common = max(0.0, sample_variance - own)
        shrunk = (means - mean) * math.sqrt(common / sample_variance) if sample_variance else means - mean
        ranks = (torch.arange(len(means), dtype=torch.double) + 0.5) / len(means)
        student = torch.as_tensor(stdtrit(seeds - 1, ranks.numpy()))[torch.randperm(len(means), generator=generator)]
        wide = mean + (shrunk + math.sqrt(seed_variance / seeds) * student).quantile(ends)
        low, high, sample_variance = min(low, float(wide[0])), max(high, float(wide[1])), common
        seed_variance = max(seed_variance, own * seeds)
    return Difference(mean, low, high, seeds, seed_variance, sample_variance, samples, differing)


def _weighted(weights: Tensor, counts: Tensor) -> Tensor:
    """Sums of counts over drawn samples: (draws, seeds, *counts)."""
    parts = counts.flatten(2).split(4096, 2)  # as doubles, thousands of samples' tables of classes fill the memory
    sums = torch.cat([torch.einsum("bn,snm->bsm", weights, part.double()) for part in parts], 2)
    return sums.unflatten(2, counts.shape[2:]) if counts.dim() > 3 else sums


def judge(against: list[Difference], margin: float) -> str:
    """What the differences to the baseline, and to the control if there is one, mean.

    Args:
        against: the difference to the baseline, then to the control.
        margin: a difference whose whole interval is smaller than this, either way, is none.
    """
    baseline = against[0]
    if any(math.isnan(d.mean) or math.isnan(d.low) for d in against):
        return "cannot tell: the score is not defined on these test samples"
    if baseline.low > -margin and baseline.high < margin and not _too_few_to_agree(baseline, margin):
        return "no difference"
    for d, rival in zip(against if baseline.low > 0 else [baseline], ("baseline", "control"), strict=False):
        if _too_few_to_agree(d, margin):
            return f"cannot tell: it and the {rival} agree on all test samples, and {d.samples} are too few"
        if d.differing < FEWEST and (d.low > 0 or d.high < 0):
            return f"cannot tell: on all but {d.differing} test samples it and the {rival} agree"
    if all(d.low > 0 for d in against):
        return "worth it"
    if baseline.high < 0:
        return "worse"
    if baseline.low > 0 and against[-1].high < margin:
        return "better, but so are as many weights without global reasoning"
    return f"cannot tell, {_needed([d for d in against if not d.low > 0], margin)}"


def _too_few_to_agree(d: Difference, margin: float) -> bool:
    """Whether two agree on all samples, but these are too few: the rule of three (Hanley, JAMA 1983)."""
    return d.low == d.high == 0 and 3 / d.samples > margin


def _needed(unclear: list[Difference], margin: float) -> str:
    """About how many more seeds would tell, if the means stay as they are."""
    more = 1
    for d in unclear:
        if math.isnan(d.seed_variance):
            return "more seeds needed"
        half_width = max(abs(d.mean), margin - abs(d.mean))
        if Z**2 * d.sample_variance >= half_width**2:
            return "and more seeds alone will not: the test set is too small"
        total = d.seeds + 1
        while stdtrit(total - 1, 0.975) ** 2 * d.seed_variance / total + Z**2 * d.sample_variance > half_width**2:
            total += 1 + total // 20
        more = max(more, total - d.seeds)
    return f"about {more} more seed{'s' if more > 1 else ''} needed"
