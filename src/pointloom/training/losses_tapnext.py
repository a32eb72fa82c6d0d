"""What TAPNext is trained on: the bin that each point lies in, its position, and whether it can be seen.

As released for PyTorch (Zholus et al. 2025), with P the position that is read from the logits, P* the true one, both in
bins of a frame of 256 x 256, and V* true where a point can be seen:

    position    mean of the Huber function of |P - P*| where V*
    bins        cross-entropy of the row and of the column of P*, mean over what is known
    visibility  binary cross-entropy of V*, mean over all points and frames

Axes: B videos, T frames, N points, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pointloom.geometry import resize_area
from pointloom.models.tapnext import BINS, Logits

HUBER_BINS = 1.0  # where the penalty turns from squared to linear
LAST_POSITION = BINS - 1.5  # as released, positions further right or below are taken for this one


@dataclass(frozen=True)
class TapNextLossWeights:
    """How the three parts are summed. The defaults are the released ones."""

    position: float = 0.1
    bins: float = 1.0
    visibility: float = 1.0


def tapnext_losses(
    yx: Float[Tensor, "B T N 2"],
    logits: Logits,
    *,
    xy: Float[Tensor, "B T N 2"],
    visible: Bool[Tensor, "B T N"],
    known: Bool[Tensor, "B T N"],
    size: tuple[int, int],
    weights: TapNextLossWeights | None = None,
) -> dict[str, Tensor]:
    """Return the parts `position`, `bins`, `visibility`, without their weights, and the `total` with.

    `yx` is what `peak` reads from the logits of positions. The truth `xy` is in pixels of a video of `size` (width,
    height); `known` says where it is known, also of hidden points, and it may be NaN elsewhere. A point that has left
    the frame counts as lying on its border. All points and frames known is how the release trains.
    """
    weights = weights or TapNextLossWeights()
    truth = resize_area(xy, size, (BINS, BINS)).flip(-1).to(yx.dtype)
    truth = truth.where(known[..., None], 0.0)
    losses = {
        "position": _mean(_huber(yx - truth.clamp(-0.5, LAST_POSITION)), visible & known),
        "bins": _mean(_cross_entropy(logits.position, truth), known),
        "visibility": F.binary_cross_entropy_with_logits(logits.visible, visible.to(logits.visible.dtype)),
    }
    losses["total"] = (
        weights.position * losses["position"]
        + weights.bins * losses["bins"]
        + weights.visibility * losses["visibility"]
    )
    return losses


def _huber(difference: Float[Tensor, "B T N 2"]) -> Float[Tensor, "B T N"]:
    square = difference.square().sum(-1)
    distance = (square + 1e-12).sqrt()  # so that its slope at zero is a number
    return torch.where(distance < HUBER_BINS, square / 2, HUBER_BINS * (distance - HUBER_BINS / 2))


def _cross_entropy(logits: Float[Tensor, "B T N 2 K"], truth: Float[Tensor, "B T N 2"]) -> Float[Tensor, "B T N"]:
    """Of the bins nearest to the truth, halves to the even one; row plus column."""
    label = truth.clamp(0, logits.shape[-1] - 1).round().long()
    return F.cross_entropy(logits.movedim(-1, 1), label, reduction="none").sum(-1)


def _mean(values: Float[Tensor, "B T N"], counted: Bool[Tensor, "B T N"]) -> Float[Tensor, ""]:
    return (values * counted).sum() / counted.sum().clamp(min=1)
