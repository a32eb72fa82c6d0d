"""LocoTrack's losses, which are those of TAPIR, against the released training code: parts, total and gradients."""

from __future__ import annotations

import pytest
import torch

from golden_cases import Case, assert_close, load
from pointloom.geometry import from_raster
from pointloom.models.base import Estimate
from pointloom.training.losses_tapir import TapirLossWeights, tapir_losses

TOLERANCE = 1e-10
PARTS = {"position": "position_loss", "visibility": "occlusion_loss", "confidence": "prob_loss"}


@pytest.fixture(scope="module")
def case() -> Case:
    return load("locotrack", "training_loss")


def size(case: Case) -> tuple[int, int]:
    return int(case["video_width"]), int(case["video_height"])


def frames_first(case: Case, key: str) -> torch.Tensor:
    """(..., N, T) or (..., N, T, 2) -> (..., T, N) or (..., T, N, 2)."""
    values = torch.from_numpy(case[key])
    return values.transpose(-3, -2) if values.shape[-1] == 2 else values.transpose(-2, -1)


def truth(case: Case) -> dict[str, torch.Tensor]:
    return {"xy": from_raster(frames_first(case, "target_points")), "visible": ~frames_first(case, "occluded")}


def estimates(case: Case) -> list[Estimate]:
    keys = ("iter_tracks", "iter_occlusion", "iter_expected_dist")
    xy, hidden, far = (frames_first(case, key).clone().requires_grad_() for key in keys)
    return [Estimate(from_raster(a), -b, -c) for a, b, c in zip(xy, hidden, far, strict=True)]


def test_the_parts_of_every_estimate(case: Case) -> None:
    last = len(case["iter_tracks"]) - 1
    weights = TapirLossWeights()
    for i, estimate in enumerate(estimates(case)):
        losses = tapir_losses(estimate, **truth(case), size=size(case))
        for part, key in PARTS.items():
            expected = case[key if i == last else f"{key}_{i}"]
            assert_close(getattr(weights, part) * losses[part], expected, TOLERANCE, f"{part} of estimate {i}")


def test_the_total_and_its_gradients(case: Case) -> None:
    every = estimates(case)
    total = sum(tapir_losses(estimate, **truth(case), size=size(case))["total"] for estimate in every)
    assert_close(total, case["loss"], TOLERANCE, "loss")
    last = every[-1]
    xy, far = torch.autograd.grad(total, [last.xy, last.confidence_logit])
    assert_close(xy.transpose(1, 2), case["grad_tracks"], TOLERANCE, "grad_tracks")
    assert_close(-far.transpose(1, 2), case["grad_expected_dist"], TOLERANCE, "grad_expected_dist")


def test_confidence_moves_no_positions(case: Case) -> None:
    estimate = estimates(case)[-1]
    losses = tapir_losses(estimate, **truth(case), size=size(case))
    (moved,) = torch.autograd.grad(losses["confidence"], [estimate.xy], allow_unused=True)
    assert moved is None


def test_a_part_without_weight_leaves_the_total(case: Case) -> None:
    weights = TapirLossWeights(position=0, visibility=2, confidence=0)
    losses = tapir_losses(estimates(case)[0], **truth(case), size=size(case), weights=weights)
    torch.testing.assert_close(losses["total"], 2 * losses["visibility"])
