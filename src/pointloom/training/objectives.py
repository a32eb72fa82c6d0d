"""What a step minimises: a module that holds the model and maps a batch to losses.

One for pairs of frames, which teach the encoder alone, and one for clips. What all trackers have in common on clips is
in `TrackingObjective`; what a family minimises, and how it must be driven, is a small class of its own below it.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pointloom.errors import OptionError
from pointloom.models.base import Estimate, FrameFeatures, Model, PointFeatures
from pointloom.models.cotracker2 import CoTracker2
from pointloom.models.cotracker3 import CoTracker3
from pointloom.models.tapir import Tapir
from pointloom.models.zoo import family_of
from pointloom.tracking.windows import WindowResult, walk
from pointloom.training.batches import PairBatch, TrackBatch
from pointloom.training.losses import (
    LossWeights,
    Penalty,
    charbonnier,
    from_query_on,
    huber,
    logarithmic,
    tracking_losses,
)
from pointloom.training.losses_tapir import TapirLossWeights, tapir_huber, tapir_losses
from pointloom.training.matching import MatchingLoss, first_estimate_loss
from pointloom.training.parts import in_encoder
from pointloom.training.recipe import TrackingRecipe
from pointloom.training.recompute import recompute_activations

JITTER_PX = (0.5, 32.0)  # smallest and largest distance of a jittered start from the truth
JITTER_KNOTS = 4  # turns of its drift


class MatchingObjective(nn.Module):
    """The encoder alone, on pairs of frames."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.matching = matching_loss(model)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(in_encoder(name) or name.startswith("matching."))

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the parts of the loss and their `total`."""
        losses = self.matching(self.model.encode(batch.frames), batch.first, batch.second)
        return {**losses, "total": sum(losses.values(), torch.zeros(()))}


def matching_loss(model: Model) -> MatchingLoss:
    """Make the matching loss of a model's maps."""
    if not isinstance(model, CoTracker2 | CoTracker3):
        raise OptionError(
            f"pairs of frames teach the encoders of CoTracker, and this is {model.info.family}. "
            f"Choose objective=tracking."
        )
    return MatchingLoss(model)


# --------------------------------------------------------------------------------------------------------------- clips


class TrackingObjective(nn.Module, ABC):
    """The whole tracker, on clips: as one window, or unrolled over several."""

    huber: Penalty = staticmethod(huber)

    def __init__(self, model: Model, recipe: TrackingRecipe, *, encoder_frozen: bool) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.encoder_frozen = encoder_frozen
        for name, parameter in self.named_parameters():
            if in_encoder(name):
                parameter.requires_grad_(not encoder_frozen)
        if recipe.recomputed:
            recompute_activations(model)

    def penalty(self, d: Tensor) -> Tensor:
        """What an error of position costs where the point is seen."""
        recipe = self.recipe
        match recipe.penalty:
            case "huber":
                return self.huber(d)
            case "charbonnier":
                return charbonnier(d, recipe.charbonnier_px)
            case "logarithmic":
                return logarithmic(d, recipe.charbonnier_px, recipe.reach_px)

    @abstractmethod
    def losses_of(
        self, windows: Sequence[WindowResult], clip: TrackBatch, counted: Bool[Tensor, "1 T N"]
    ) -> dict[str, Tensor]:
        """Return the parts of the loss of one clip, and their `total`. Positions count where they are `counted`."""

    @abstractmethod
    def matching_part(self, features: FrameFeatures, points: PointFeatures, batch: TrackBatch) -> Tensor:
        """Return what keeps features discriminative, of `matching_pairs` random pairs or frames of the first clip."""

    def windows(self, drawn: tuple[int, int]) -> tuple[int, int]:
        """Return (window, step) of a clip for which those were drawn."""
        return drawn

    def forwards_only(self, *, unrolled: bool) -> bool:
        """Whether nothing is to be learned of the frames before a query."""
        return unrolled

    def forward(self, batch: TrackBatch, windows: tuple[int, int], jittered: bool) -> dict[str, Tensor]:
        """Return the parts of the loss and their `total`. `windows` is the drawn (window, step)."""
        with torch.no_grad() if self.encoder_frozen else contextlib.nullcontext():
            features = self.model.encode(batch.frames)
        points = self.model.describe(features, batch.queries)
        prior = jitter(batch.xy) if jittered else None
        window, step = self.windows(windows)
        forwards = self.forwards_only(unrolled=window < len(features))
        results = list(
            walk(
                self.model,
                features,
                points,
                window=window,
                step=step,
                iterations=self.recipe.iterations,
                masked=self.recipe.masked and forwards,
                prior=prior,
                lead_in=self.model.info.leads_in,
            )
        )
        losses = self._losses(results, batch, forwards_only=forwards)
        if self.recipe.matching_weight:
            matching = self.matching_part(features, points, batch)
            losses["total"] = losses["total"] + self.recipe.matching_weight * matching
            losses["matching"] = matching
        return losses

    def _losses(self, results: list[WindowResult], batch: TrackBatch, *, forwards_only: bool) -> dict[str, Tensor]:
        """Mean over the clips of the losses of each, so that a batch may be split over processes in any way."""
        counted = batch.valid
        if forwards_only:
            counted = counted & from_query_on(batch.queries, counted.shape[1])
        of_clips = []
        for b in range(len(batch.xy)):
            clip = TrackBatch(*(part[b : b + 1] for part in batch))
            of_clips.append(self.losses_of([one_clip(window, b) for window in results], clip, counted[b : b + 1]))
        return {name: torch.stack([losses[name] for losses in of_clips]).mean() for name in of_clips[0]}


class CoTracker3Objective(TrackingObjective):
    """Any clip, in windows of any length."""

    def __init__(self, model: Model, recipe: TrackingRecipe, *, encoder_frozen: bool) -> None:
        super().__init__(model, recipe, encoder_frozen=encoder_frozen)
        if recipe.matching_weight:
            self.matching = matching_loss(model)

    def losses_of(
        self, windows: Sequence[WindowResult], clip: TrackBatch, counted: Bool[Tensor, "1 T N"]
    ) -> dict[str, Tensor]:
        """Return CoTracker3's losses."""
        recipe = self.recipe
        weights = LossWeights(
            visible=recipe.visible,
            occluded=recipe.occluded,
            confidence=recipe.confidence,
            visibility=recipe.visibility,
            gamma=recipe.gamma,
            confidence_px=recipe.confidence_px,
            known_only=recipe.known_only,
        )
        return tracking_losses(
            windows, xy=clip.xy, visible=clip.visible, valid=counted, weights=weights, penalty=self.penalty
        )

    def matching_part(self, features: FrameFeatures, points: PointFeatures, batch: TrackBatch) -> Tensor:
        """Mean matching loss over random pairs of frames of the first clip, of points seen in both at known places."""
        losses = []
        for _ in range(self.recipe.matching_pairs):
            first, second = (int(i) for i in torch.randperm(len(features))[:2])
            both = batch.seen_at_known_place[0, first] & batch.seen_at_known_place[0, second]
            if both.any():
                maps = tuple(m[:1, [first, second]] for m in features.maps)
                pair = FrameFeatures(maps, features.size, features.input)
                parts = self.matching(pair, batch.xy[:1, first, both], batch.xy[:1, second, both])
                losses.append(sum(parts.values(), torch.zeros(())))
        if not losses:  # nothing to learn, from all that has a gradient: other processes wait for it
            return features.maps[0].sum() * 0 + self.matching.log_temperatures.sum() * 0
        return torch.stack(losses).mean()


class CoTracker2Objective(CoTracker3Objective):
    """Windows of the length that the model is made for, forwards; a shorter clip is padded by its last frame.

    No code of its training was published. The paper has, as its successor, a distance that counts more in later
    iterations, and the cross-entropy of visibility; so the losses are CoTracker3's without confidence.
    """

    def __init__(self, model: Model, recipe: TrackingRecipe, *, encoder_frozen: bool) -> None:
        window = model.info.window
        if (recipe.windowed, recipe.window, recipe.confidence) != (1, (window, window), 0):
            raise OptionError(
                f"this CoTracker v2 sees windows of {window} frames and says nothing of its confidence: set "
                f"tracking.windowed=1, tracking.window=[{window},{window}] and tracking.confidence=0."
            )
        super().__init__(model, recipe, encoder_frozen=encoder_frozen)

    def windows(self, drawn: tuple[int, int]) -> tuple[int, int]:
        """Return (window, step) of the model, whatever was drawn for a clip that is shorter."""
        return self.model.info.window, self.model.info.step

    def forwards_only(self, *, unrolled: bool) -> bool:
        """Also in a single window: it says of each frame whether the point has begun."""
        return True

    def losses_of(
        self, windows: Sequence[WindowResult], clip: TrackBatch, counted: Bool[Tensor, "1 T N"]
    ) -> dict[str, Tensor]:
        """Return CoTracker3's losses of position and visibility."""
        losses = super().losses_of(windows, clip, counted)
        del losses["confidence"]  # of a constant; its weight in the total is zero
        return losses


class TapirObjective(TrackingObjective):
    """Whole clips, each point by itself, found anew in every frame before anything is refined.

    Its matching loss is one of that first estimate, and not part of the release.
    """

    NOT_USED = ("occluded", "gamma", "masked", "known_only")

    model: Tapir
    huber = staticmethod(tapir_huber)

    def __init__(self, model: Model, recipe: TrackingRecipe, *, encoder_frozen: bool) -> None:
        if (recipe.windowed, recipe.jittered) != (0, 0):
            raise OptionError(
                "TAPIR sees whole clips and finds its start by itself: set tracking.windowed=0, tracking.jittered=0."
            )
        if changed := [name for name in self.NOT_USED if getattr(recipe, name) != getattr(TrackingRecipe, name)]:
            raise OptionError(
                f"TAPIR's loss counts no hidden points, only what is known, and all estimates alike, both ways from a "
                f"query, and does not use {', '.join(f'tracking.{name}' for name in changed)}: leave that out of the "
                f"recipe."
            )
        super().__init__(model, recipe, encoder_frozen=encoder_frozen)

    def losses_of(
        self, windows: Sequence[WindowResult], clip: TrackBatch, counted: Bool[Tensor, "1 T N"]
    ) -> dict[str, Tensor]:
        """Return TAPIR's losses, summed over its estimates; frames before a query count as well."""
        recipe = self.recipe
        weights = TapirLossWeights(recipe.visible, recipe.visibility, recipe.confidence, recipe.confidence_px)
        height, width = clip.frames.shape[2:4]
        (window,) = windows
        of_estimates = [
            tapir_losses(
                estimate,
                xy=clip.xy,
                visible=clip.visible,
                size=(width, height),
                known=counted,
                weights=weights,
                penalty=self.penalty,
            )
            for estimate in window.estimates
        ]
        return {name: torch.stack([losses[name] for losses in of_estimates]).sum() for name in of_estimates[0]}

    def matching_part(self, features: FrameFeatures, points: PointFeatures, batch: TrackBatch) -> Tensor:
        """Return the mean over random frames of the first clip, of points seen there at known places."""
        chosen = torch.randperm(len(features))[: self.recipe.matching_pairs]
        some = replace(features, maps=tuple(m[:1, chosen] for m in features.maps))
        first = PointFeatures(points.queries[:1], tuple(s[:1] for s in points.support))
        visible = batch.seen_at_known_place[:1, chosen]
        if not visible.any():
            return features.maps[1].sum() * 0
        return first_estimate_loss(self.model, some, first, batch.xy[:1, chosen], visible)


OBJECTIVES: dict[str, type[TrackingObjective]] = {
    "cotracker2": CoTracker2Objective,
    "cotracker3": CoTracker3Objective,
    "tapir": TapirObjective,
}


def tracking_objective(model: Model, recipe: TrackingRecipe, *, encoder_frozen: bool) -> TrackingObjective:
    """Make the objective of a model's family."""
    family = family_of(model.config)
    if family not in OBJECTIVES:
        raise OptionError(f"there is no loss for models of the family {family!r}, only for {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[family](model, recipe, encoder_frozen=encoder_frozen)


# ---------------------------------------------------------------------------------------------------------------------


def one_clip(window: WindowResult, index: int) -> WindowResult:
    """Return what a window gave for one of the clips of a batch."""

    def part(estimate: Estimate) -> Estimate:
        xy, visibility, confidence = estimate.xy, estimate.visibility_logit, estimate.confidence_logit
        b = slice(index, index + 1)
        return Estimate(xy[b], visibility[b], confidence[b])

    return WindowResult(window.start, part(window.prior), [part(estimate) for estimate in window.estimates])


def jitter(xy: Float[Tensor, "B T N 2"]) -> Estimate:
    """Start near the truth: each track is shifted by a slow drift of random size, which no average removes."""
    B, T, N, _ = xy.shape
    low, high = (math.log(px) for px in JITTER_PX)
    size = torch.exp(low + (high - low) * torch.rand(B, 1, N, 1, device=xy.device))
    knots = torch.randn(B * N, 2, JITTER_KNOTS, device=xy.device)
    drift = F.interpolate(knots, size=T, mode="linear", align_corners=True)  # (B*N, 2, T)
    drift = drift.view(B, N, 2, T).permute(0, 3, 1, 2)  # (B, T, N, 2)
    zeros = xy.new_zeros(B, T, N)
    return Estimate(xy + size * drift, zeros, zeros)
