"""What a step minimises: a module that holds the model and maps a batch to losses. One for each kind of batch."""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointloom.models.base import Estimate, FrameFeatures
from pointloom.models.cotracker3 import CoTracker3
from pointloom.tracking.windows import WindowResult, walk
from pointloom.training.batches import PairBatch, TrackBatch
from pointloom.training.losses import LossWeights, charbonnier, from_query_on, huber, tracking_losses
from pointloom.training.matching import MatchingLoss
from pointloom.training.recipe import TrackingRecipe
from pointloom.training.recompute import recompute_activations

JITTER_PX = (0.5, 32.0)  # smallest and largest distance of a jittered start from the truth
JITTER_KNOTS = 4  # turns of its drift


class MatchingObjective(nn.Module):
    """The encoder alone, on pairs of frames."""

    def __init__(self, model: CoTracker3) -> None:
        super().__init__()
        self.model = model
        self.matching = MatchingLoss(model)
        model.updateformer.requires_grad_(False)
        model.corr_mlp.requires_grad_(False)

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the parts of the loss and their `total`."""
        losses = self.matching(self.model.encode(batch.frames), batch.first, batch.second)
        return {**losses, "total": sum(losses.values(), torch.zeros(()))}


class TrackingObjective(nn.Module):
    """The whole tracker, on clips: as one window, or unrolled over several."""

    def __init__(self, model: CoTracker3, recipe: TrackingRecipe, *, encoder_frozen: bool) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.encoder_frozen = encoder_frozen
        model.fnet.requires_grad_(not encoder_frozen)
        if recipe.recomputed:
            recompute_activations(model)
        if recipe.matching_weight:
            self.matching = MatchingLoss(model)
        self.weights = LossWeights(
            visible=recipe.visible,
            occluded=recipe.occluded,
            confidence=recipe.confidence,
            visibility=recipe.visibility,
            gamma=recipe.gamma,
            confidence_px=recipe.confidence_px,
        )

    def forward(self, batch: TrackBatch, windows: tuple[int, int], jittered: bool) -> dict[str, Tensor]:
        """Return the parts of the loss and their `total`. `windows` is (window, step)."""
        with torch.no_grad() if self.encoder_frozen else contextlib.nullcontext():
            features = self.model.encode(batch.frames)
        points = self.model.describe(features, batch.queries)
        prior = jitter(batch.xy) if jittered else None
        unrolled = windows[0] < len(features)
        results = list(
            walk(
                self.model,
                features,
                points,
                window=windows[0],
                step=windows[1],
                iterations=self.recipe.iterations,
                masked=self.recipe.masked and unrolled,
                prior=prior,
            )
        )
        losses = self._losses(results, batch, forwards_only=unrolled)
        if self.recipe.matching_weight:
            matching = self._matching(features, batch)
            losses["total"] = losses["total"] + self.recipe.matching_weight * matching
            losses["matching"] = matching
        return losses

    def _losses(self, results: list[WindowResult], batch: TrackBatch, *, forwards_only: bool) -> dict[str, Tensor]:
        """Mean over the clips of the losses of each, so that a batch may be split over processes in any way."""
        counted = batch.valid
        if forwards_only:
            counted = counted & from_query_on(batch.queries, counted.shape[1])
        of_clips = [
            tracking_losses(
                [one_clip(window, b) for window in results],
                xy=batch.xy[b : b + 1],
                visible=batch.visible[b : b + 1],
                valid=counted[b : b + 1],
                weights=self.weights,
                penalty=self.penalty,
            )
            for b in range(len(batch.xy))
        ]
        return {name: torch.stack([losses[name] for losses in of_clips]).mean() for name in of_clips[0]}

    def penalty(self, d: Tensor) -> Tensor:
        """What an error of position costs where the point is seen."""
        return huber(d) if self.recipe.penalty == "huber" else charbonnier(d, self.recipe.charbonnier_px)

    def _matching(self, features: FrameFeatures, batch: TrackBatch) -> Tensor:
        """Mean matching loss over random pairs of frames of the first clip, of the points visible in both."""
        losses = []
        for _ in range(self.recipe.matching_pairs):
            first, second = (int(i) for i in torch.randperm(len(features))[:2])
            both = batch.visible[0, first] & batch.visible[0, second]
            if both.any():
                maps = tuple(m[:1, [first, second]] for m in features.maps)
                pair = FrameFeatures(maps, features.size, features.input)
                parts = self.matching(pair, batch.xy[:1, first, both], batch.xy[:1, second, both])
                losses.append(sum(parts.values(), torch.zeros(())))
        return torch.stack(losses).mean() if losses else features.maps[0].sum() * 0


def one_clip(window: WindowResult, index: int) -> WindowResult:
    """Return what a window gave for one of the clips of a batch."""

    def part(estimate: Estimate) -> Estimate:
        xy, visibility, confidence = estimate.xy, estimate.visibility_logit, estimate.confidence_logit
        b = slice(index, index + 1)
        return Estimate(xy[b], visibility[b], confidence[b])

    return WindowResult(window.start, part(window.prior), [part(estimate) for estimate in window.estimates])


def jitter(xy: Tensor) -> Estimate:
    """Start near the truth: each track is shifted by a slow drift of random size, which no average removes."""
    B, T, N, _ = xy.shape
    low, high = (math.log(px) for px in JITTER_PX)
    size = torch.exp(low + (high - low) * torch.rand(B, 1, N, 1, device=xy.device))
    knots = torch.randn(B * N, 2, JITTER_KNOTS, device=xy.device)
    drift = F.interpolate(knots, size=T, mode="linear", align_corners=True)  # (B*N, 2, T)
    drift = drift.view(B, N, 2, T).permute(0, 3, 1, 2)  # (B, T, N, 2)
    zeros = xy.new_zeros(B, T, N)
    return Estimate(xy + size * drift, zeros, zeros)
