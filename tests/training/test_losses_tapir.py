"""TAPIR's losses against those of the released training code: parts, gradients, and what is not known."""

from __future__ import annotations

import pytest
import torch

from golden_cases import Case, assert_close, load
from pointloom.geometry import from_raster
from pointloom.models.base import Estimate
from pointloom.training.losses_tapir import TapirLossWeights, tapir_losses

TOLERANCE = 1e-10
PARTS = ("position", "visibility", "confidence")  # in the order of the file


@pytest.fixture(scope="module")
def case() -> Case:
    return load("tapir", "losses")


def frames_first(case: Case, key: str) -> torch.Tensor:
    """(B, N, T) or (B, N, T, 2) -> (B, T, N) or (B, T, N, 2)."""
    return torch.from_numpy(case[key]).transpose(1, 2)


def size(case: Case) -> tuple[int, int]:
    _, _, height, width, _ = (int(side) for side in case["video_shape"])
    return width, height


def truth(case: Case) -> dict[str, torch.Tensor]:
    return {
        "xy": from_raster(frames_first(case, "target_points")),
        "visible": frames_first(case, "target_occluded") == 0,
    }


def parameters(case: Case) -> list[torch.Tensor]:
    """Predicted positions, hiddenness, and distance from the truth."""
    return [frames_first(case, key).clone().requires_grad_() for key in ("points", "occlusion", "expected_dist")]


def estimate_of(xy: torch.Tensor, hidden: torch.Tensor, far: torch.Tensor) -> Estimate:
    return Estimate(from_raster(xy), -hidden, -far)


def test_each_part_and_its_gradients(case: Case) -> None:
    predicted = parameters(case)
    losses = tapir_losses(estimate_of(*predicted), **truth(case), size=size(case))
    weights = TapirLossWeights()
    for part, expected in zip(PARTS, case["losses"], strict=True):
        assert_close(getattr(weights, part) * losses[part], expected, TOLERANCE, part)
    assert_close(losses["total"], case["losses"].sum(), TOLERANCE, "total")
    losses["total"].backward()
    for values, key in zip(predicted, ("points", "occlusion", "expected_dist"), strict=True):
        assert values.grad is not None
        assert_close(values.grad.transpose(1, 2), case[f"grad_{key}"], TOLERANCE, f"gradient of {key}")


def test_what_is_not_known_adds_nothing_to_a_mean_over_all(case: Case) -> None:
    """The second example also weighs hidden points otherwise in the visibility loss; that part is left out here."""
    known = frames_first(case, "mask") > 0
    target = truth(case)
    target["xy"] = target["xy"].where(known[..., None], torch.nan)
    losses = tapir_losses(estimate_of(*parameters(case)), **target, size=size(case), known=known)
    position, _, confidence = case["losses_mask_rebalance025"]
    assert_close(TapirLossWeights().position * losses["position"], position, TOLERANCE, "position")
    assert_close(losses["confidence"], confidence, TOLERANCE, "confidence")


def test_visibility_counts_where_the_truth_is_known_alone(case: Case) -> None:
    predicted = parameters(case)
    known = frames_first(case, "mask") > 0
    losses = tapir_losses(estimate_of(*predicted), **truth(case), size=size(case), known=known)
    (gradient,) = torch.autograd.grad(losses["visibility"], [predicted[1]])
    assert torch.equal(gradient != 0, known)


def test_another_penalty_takes_the_place_of_hubers(case: Case) -> None:
    known = torch.ones(frames_first(case, "mask").shape, dtype=torch.bool)
    of_one = tapir_losses(
        estimate_of(*parameters(case)), **truth(case), size=size(case), known=known, penalty=torch.ones_like
    )
    assert float(of_one["position"]) == pytest.approx(float(truth(case)["visible"].double().mean()))


def test_what_counts_as_right_is_a_choice(case: Case) -> None:
    predicted = estimate_of(*(values.detach() for values in parameters(case)))
    losses = [
        tapir_losses(predicted, **truth(case), size=size(case), weights=TapirLossWeights(confidence_px=px))
        for px in (1e-3, 1e6)
    ]
    sure = torch.nn.functional.logsigmoid(-frames_first(case, "expected_dist"))
    visible = truth(case)["visible"]
    assert float(losses[1]["confidence"]) == pytest.approx(float((-sure * visible).mean()))
    assert float(losses[0]["confidence"]) != pytest.approx(float(losses[1]["confidence"]))
