"""How sure a mean over videos is: intervals by bootstrap (Efron 1979), also for differences of two models.

Videos are drawn with replacement, for a mean of groups within each group, and the mean is taken anew, many times; the
interval holds the middle 95 % of these means. Every call draws the same videos for the same seed, so that two models
are compared on the same draws. Few videos give intervals that are too narrow, one video gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 2000
INTERVAL_PERCENT = 95
SEED = 0
VALUES_AT_ONCE = 2_000_000  # bounds the memory of a draw


class Interval(NamedTuple):
    """A mean and the ends of its interval; NaN for ends that cannot be told."""

    value: float
    low: float
    high: float


def mean_of_groups(groups: Sequence[Float[np.ndarray, " _V"]], *, seed: int = SEED) -> Interval:
    """Mean over groups of the mean over videos; one group is a plain mean. There are no NaN among the values."""
    groups = [np.asarray(values, float) for values in groups if len(values)]
    if not groups:
        return Interval(np.nan, np.nan, np.nan)
    value = float(np.mean([values.mean() for values in groups]))
    if max(map(len, groups)) < 2:
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(values, rng) for values in groups], axis=0)
    return interval(value, means)


def mean(values: Float[np.ndarray, " V"], *, seed: int = SEED) -> Interval:
    """Mean over videos, with its interval."""
    return mean_of_groups([values], seed=seed)


def draws(videos: int, rng: np.random.Generator, count: int = RESAMPLES) -> Int[np.ndarray, "R V"]:
    """Draw `videos` indices of as many videos, with replacement, `count` times."""
    return rng.integers(0, videos, (count, videos))


def interval(value: float, resampled: Float[np.ndarray, " R"]) -> Interval:
    """The middle of what resampling gave, around a value."""
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled):
        return Interval(value, np.nan, np.nan)
    tail = (100 - INTERVAL_PERCENT) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def _resampled_means(values: Float[np.ndarray, " V"], rng: np.random.Generator) -> Float[np.ndarray, " R"]:
    at_once = max(1, VALUES_AT_ONCE // len(values))
    counts = [min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once)]
    return np.concatenate([values[draws(len(values), rng, count)].mean(axis=1) for count in counts])
