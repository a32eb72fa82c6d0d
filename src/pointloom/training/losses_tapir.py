"""What TAPIR is trained on, and LocoTrack after it: positions, visibility, and whether a position is right.

As released (Doersch et al. 2023; Cho et al. 2024), with d the distance of an estimate from the truth in pixels of a
frame of 256 x 256:

    position    the Huber function of d where the point can be seen
    visibility  binary cross-entropy
    confidence  binary cross-entropy of d being at most 6, where the point can be seen; moves no positions

Each is a mean over all points and frames, those of hidden points included, which add nothing to the first and the last.

Axes: B videos, T frames, N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pointloom.models.base import Estimate
from pointloom.training.losses import Penalty, huber

SIDE = 256  # of the frame in whose pixels distances are counted
HUBER_PX = 4.0  # where the penalty turns from squared to linear


def tapir_huber(d: Float[Tensor, "*A"]) -> Float[Tensor, "*A"]:
    """TAPIR's penalty of a distance."""
    return huber(d, HUBER_PX)


@dataclass(frozen=True)
class TapirLossWeights:
    """How the three parts are summed, and what they aim at. The defaults are the released ones, of both models.

    confidence_px  a position is right if it lies at most this far from the truth
    """

    position: float = 0.05
    visibility: float = 1.0
    confidence: float = 1.0
    confidence_px: float = 6.0


def tapir_losses(
    estimate: Estimate,
    *,
    xy: Float[Tensor, "B T N 2"],
    visible: Bool[Tensor, "B T N"],
    size: tuple[int, int],
    known: Bool[Tensor, "B T N"] | None = None,
    weights: TapirLossWeights | None = None,
    penalty: Penalty = tapir_huber,
) -> dict[str, Tensor]:
    """Return the parts `position`, `visibility`, `confidence`, without their weights, and the `total` with.

    They belong to one estimate; training sums the totals of all that `iterate` yields, the first one included. The
    truth `xy` is in pixels of a video of `size` (width, height). Where it is not `known` (None: it is everywhere) it
    may be NaN and adds nothing, to a mean that is still over all points and frames. Another `penalty` of distances may
    take the place of Huber's.
    """
    weights = weights or TapirLossWeights()
    known = torch.ones_like(visible) if known is None else known
    unit = xy.new_tensor([SIDE / size[0], SIDE / size[1]])
    difference = (estimate.xy - xy).where(known[..., None], 0.0)
    square = (difference * unit).square().sum(-1)
    distance = (square + 1e-12).sqrt()  # so that its slope at zero is a number
    right = (square <= weights.confidence_px**2).to(square.dtype)
    doubt = F.binary_cross_entropy_with_logits(estimate.confidence_logit, right, reduction="none")
    mistake = F.binary_cross_entropy_with_logits(estimate.visibility_logit, visible.to(square.dtype), reduction="none")
    losses = {
        "position": (known & visible).mul(penalty(distance)).mean(),
        "visibility": known.mul(mistake).mean(),
        "confidence": (known & visible).mul(doubt).mean(),
    }
    losses["total"] = (
        weights.position * losses["position"]
        + weights.visibility * losses["visibility"]
        + weights.confidence * losses["confidence"]
    )
    return losses
