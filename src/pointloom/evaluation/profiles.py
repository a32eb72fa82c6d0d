"""Where errors come from: accuracy against time since the query, displacement and re-appearance, and calibration.

Each function looks at one video and gives small arrays, so that a data set of any size can be pooled. Distances are in
pixels of 256 x 256.

Letters: N points, T frames, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from pointloom.evaluation.metrics import THRESHOLDS_PX

# Lower ends of classes; each reaches to the next one, the last one to infinity.
SINCE_QUERY = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257)  # frames
DISPLACEMENT = (0, 1, 2, 4, 8, 16, 32, 64, 128)  # px between the true position and that of the query
SINCE_REAPPEARANCE = (0, 1, 2, 4, 8, 16, 32)  # frames that the point can be seen again

RELIABILITY_CLASSES = 10  # of probabilities, equally wide


@dataclass(frozen=True)
class Profile:
    """What became of the visible points of one video, class by class. NaN in a class without any.

    points     pairs of a point and a frame
    delta_avg  percentage that is near enough, mean over the five distances, as in TAP-Vid
    error_px   median distance to the truth
    said_seen  percentage that was said to be visible
    """

    points: Int[np.ndarray, " K"]
    delta_avg: Float[np.ndarray, " K"]
    error_px: Float[np.ndarray, " K"]
    said_seen: Float[np.ndarray, " K"]


def profile(
    against: Real[np.ndarray, "N T"],
    lower_ends: Sequence[float],
    *,
    distance: Float[np.ndarray, "N T"],
    said_seen: Bool[np.ndarray, "N T"],
    counted: Bool[np.ndarray, "N T"],
) -> Profile:
    """Sort the counted pairs into classes by `against`; what lies below the lowest class is left out."""
    place = np.searchsorted(lower_ends, against[counted], side="right") - 1
    far, said = distance[counted], said_seen[counted]
    classes = [place == k for k in range(len(lower_ends))]
    return Profile(
        np.array([chosen.sum() for chosen in classes]),
        np.array([_mean([100 * _mean(far[chosen] < d) for d in THRESHOLDS_PX]) for chosen in classes]),
        np.array([np.median(far[chosen]) if chosen.any() else np.nan for chosen in classes]),
        np.array([100 * _mean(said[chosen]) for chosen in classes]),
    )


def frames_since_reappearance(
    visible: Bool[np.ndarray, "N T"], valid: Bool[np.ndarray, "N T"], query_frame: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "N T"]:
    """Count the frames since a point came back from being hidden: 0 in the first one; -1 while it has not come back.

    Only what happens after the query counts. Where the annotation is not valid nobody knows, and counting ends.
    """
    N, T = visible.shape
    since = np.full((N, T), -1)
    was_hidden = np.zeros(N, bool)
    for t in range(T):
        seen = valid[:, t] & visible[:, t]
        hidden = valid[:, t] & ~visible[:, t] & (query_frame < t)
        goes_on = since[:, t - 1] + 1 if t else np.zeros(N, int)
        since[:, t] = np.where(seen & was_hidden, 0, np.where(seen & (goes_on > 0), goes_on, -1))
        was_hidden = hidden
    return since


@dataclass(frozen=True)
class Reliability:
    """How often that happened which was said to be so probable, class by class. Can be added up over videos.

    points     how many probabilities lie in the class
    predicted  their sum
    observed   how often it was so
    squared    sum over all classes of (probability - what was)^2
    """

    points: Int[np.ndarray, " K"]
    predicted: Float[np.ndarray, " K"]
    observed: Int[np.ndarray, " K"]
    squared: float

    def __add__(self, other: Reliability) -> Reliability:
        """Pool two videos."""
        return Reliability(
            self.points + other.points,
            self.predicted + other.predicted,
            self.observed + other.observed,
            self.squared + other.squared,
        )

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, percent: mean distance of predicted and observed share, weighted by points."""
        total = self.points.sum()
        return float(100 * np.abs(self.predicted - self.observed).sum() / total) if total else np.nan

    @property
    def brier(self) -> float:
        """Mean squared distance of the probability to what was, 0..1; smaller is better."""
        total = int(self.points.sum())
        return self.squared / total if total else np.nan


def reliability(probability: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]) -> Reliability:
    """Sort probabilities into classes. What is not a number is left out."""
    known = np.isfinite(probability)
    p, h = probability[known].astype(float), happened[known]
    place = np.minimum((p * RELIABILITY_CLASSES).astype(int), RELIABILITY_CLASSES - 1)
    return Reliability(
        np.bincount(place, minlength=RELIABILITY_CLASSES),
        np.bincount(place, p, RELIABILITY_CLASSES),
        np.bincount(place, h, RELIABILITY_CLASSES).astype(int),
        float(((p - h) ** 2).sum()),
    )


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan
