"""What tracking is trained on: errors of position where a point is seen and where it is hidden, and two probabilities.

After CoTracker3 (Karaev et al. 2024). With P the estimated and P* the true positions in a window, V* true where a
point can be seen, m = 0 .. M-1 the iterations and gamma < 1, so that later iterations count more:

    visible     mean over windows of 1/M sum_m gamma^(M-1-m) [mean of penalty(P - P*) where valid and V*]
    occluded    the same where valid and not V*, with |P - P*| as the penalty
    confidence  binary cross-entropy of "P lies within confidence_px of P*"; where hidden it counts as zero
    visibility  binary cross-entropy of V*

Each track loss divides by its own number of counted (frame, point) pairs, so where few frames are occluded each of
them weighs much. The two probabilities are averaged over all frames, points and iterations alike, whatever is valid;
with `known_only`, which is not the paper's, over what is valid. Windows weigh the same; frames in which they overlap
count in each of them, frames that only pad the video in none.

Positions are pixels of the frames that the model is trained on. Axes: M iterations, B videos, T frames, N points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pointloom.errors import OptionError
from pointloom.tracking.windows import WindowResult

Penalty = Callable[[Tensor], Tensor]

HUBER_PX = 6.0  # where the paper's penalty turns from squared to linear
LARGEST_CROSS_ENTROPY = 100.0  # of one probability; it is what a logarithm clamped at -100 gives
COUNT_FLOOR = 1e-6  # makes a loss over nothing zero


@dataclass(frozen=True)
class LossWeights:
    """How the four parts are summed, and what they aim at. The defaults are the paper's.

    gamma          weight of an iteration relative to the one after it, in the two track losses
    confidence_px  a position is right if it lies at most this far from the truth
    known_only     the two probabilities are averaged over what is valid
    """

    visible: float = 0.05
    occluded: float = 0.01
    confidence: float = 1.0
    visibility: float = 1.0
    gamma: float = 0.8
    confidence_px: float = 12.0
    known_only: bool = False


def huber(d: Float[Tensor, "*A"], delta: float = HUBER_PX) -> Float[Tensor, "*A"]:
    """d^2 / 2 up to delta, linear beyond it; element-wise, in squared pixels."""
    return F.huber_loss(d, torch.zeros_like(d), reduction="none", delta=delta)


def charbonnier(d: Float[Tensor, "*A"], scale: float) -> Float[Tensor, "*A"]:
    """sqrt(d^2 + scale^2) - scale; element-wise, in pixels.

    Nearly |d| with a rounded tip of width `scale`: unlike Huber's, its slope stays the same from large errors down to
    `scale`, so that a young model goes on learning about small ones.
    """
    return (d.square() + scale**2).sqrt() - scale


def logarithmic(d: Float[Tensor, "*A"], scale: float, reach: float) -> Float[Tensor, "*A"]:
    """reach * log(1 + charbonnier(d) / reach); element-wise, in pixels.

    Its slope falls beyond `reach`, so that lost points do not drown those that are nearly right. There a halved error
    counts the same at any size, as it does for the thresholds of 1, 2, 4, 8 and 16 px by which trackers are measured.
    """
    return reach * torch.log1p(charbonnier(d, scale) / reach)


def from_query_on(queries: Float[Tensor, "B N 3"], frames: int) -> Bool[Tensor, "B T N"]:
    """True from each point's query frame on: what counts for a model that tracks forwards only."""
    frame = torch.arange(frames, device=queries.device)
    return frame[None, :, None] >= queries[:, None, :, 0].long()


def tracking_losses(
    windows: Sequence[WindowResult],
    *,
    xy: Float[Tensor, "B T N 2"],
    visible: Bool[Tensor, "B T N"],
    valid: Bool[Tensor, "B T N"],
    weights: LossWeights | None = None,
    penalty: Penalty = huber,
) -> dict[str, Tensor]:
    """Return the parts `visible`, `occluded`, `confidence`, `visibility`, without their weights, and the `total` with.

    `valid` says what counts in the track losses: frames where the truth is known and, for a model that tracks forwards
    only, `from_query_on`; with `known_only` in the other two as well. Positions that do not count may be NaN. `penalty`
    maps a difference in x or in y to what it costs where the point is visible; 0 costs 0. Everything is computed in
    float32 at least.
    """
    weights = weights or LossWeights()
    if not windows or not all(window.estimates for window in windows):
        raise OptionError("there is nothing to learn from: at least one window with at least one iteration is needed.")
    of_windows = [_window_losses(window, xy, visible, valid, weights=weights, penalty=penalty) for window in windows]
    losses = {name: torch.stack([part[name] for part in of_windows]).mean() for name in of_windows[0]}
    losses["total"] = (
        weights.visible * losses["visible"]
        + weights.occluded * losses["occluded"]
        + weights.confidence * losses["confidence"]
        + weights.visibility * losses["visibility"]
    )
    return losses


def _window_losses(
    window: WindowResult,
    xy: Float[Tensor, "B T N 2"],
    visible: Bool[Tensor, "B T N"],
    valid: Bool[Tensor, "B T N"],
    *,
    weights: LossWeights,
    penalty: Penalty,
) -> dict[str, Tensor]:
    frames = min(window.result.xy.shape[1], xy.shape[1] - window.start)  # the last window may reach beyond the video
    estimates = [estimate.frames(0, frames) for estimate in window.estimates]
    predicted = _precise(torch.stack([e.xy for e in estimates]))  # (M, B, T, N, 2)
    seen_logit = _precise(torch.stack([e.visibility_logit for e in estimates]))  # (M, B, T, N)
    sure_logit = _precise(torch.stack([e.confidence_logit for e in estimates]))

    part = slice(window.start, window.start + frames)
    truth, seen, known = _precise(xy[:, part]), visible[:, part], valid[:, part]
    difference = predicted - truth
    right = difference.detach().square().sum(-1) <= weights.confidence_px**2
    judged = known if weights.known_only else torch.ones_like(known)
    return {
        "visible": _track_loss(difference, known & seen, penalty, weights.gamma),
        "occluded": _track_loss(difference, known & ~seen, torch.abs, weights.gamma),
        "confidence": _mean_over(judged, _cross_entropy(sure_logit, right) * seen),
        "visibility": _mean_over(judged, _cross_entropy(seen_logit, seen.expand_as(seen_logit))),
    }


def _track_loss(
    difference: Float[Tensor, "M B T N 2"], counted: Bool[Tensor, "B T N"], penalty: Penalty, gamma: float
) -> Float[Tensor, ""]:
    cost = penalty(difference.where(counted[..., None], 0.0)).mean(-1)  # (M, B, T, N)
    of_iterations = cost.sum(dim=(1, 2, 3)) / (counted.sum().to(cost.dtype) + COUNT_FLOOR)
    M = len(of_iterations)
    weight = gamma ** torch.arange(M - 1, -1, -1, device=cost.device, dtype=cost.dtype)
    return (weight * of_iterations).mean()


def _mean_over(judged: Bool[Tensor, "B T N"], cost: Float[Tensor, "M B T N"]) -> Float[Tensor, ""]:
    return cost.where(judged, 0.0).sum() / (len(cost) * judged.sum()).clamp(min=1)


def _cross_entropy(logit: Float[Tensor, "*A"], target: Bool[Tensor, "*A"]) -> Float[Tensor, "*A"]:
    """-log of the probability given to what is true; computed from the logit, so that none is rounded to 0."""
    return (-F.logsigmoid(torch.where(target, logit, -logit))).clamp(max=LARGEST_CROSS_ENTROPY)


def _precise(x: Tensor) -> Tensor:
    """At least float32: sums over a clip lose too much in half precision."""
    return x if x.dtype == torch.float64 else x.float()
