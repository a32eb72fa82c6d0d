"""Losses of TAPNext against the reference, and what counts in them."""

from __future__ import annotations

import pytest
import torch

from golden_cases import Case, assert_close, load
from pointloom.geometry import from_raster
from pointloom.models.base import Memory
from pointloom.models.tapnext import BINS, Logits, peak
from pointloom.training.losses_tapnext import TapNextLossWeights, tapnext_losses
from tapnext_cases import described, encoded, model_of

TOLERANCE = 1e-8
SIZE = (BINS, BINS)


def truth_of(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions in pixels and visibility, frames before points."""
    xy = from_raster(case.tensor("target_points", torch.float64)).transpose(1, 2)
    return xy, case.tensor("visible", torch.bool)[..., 0].transpose(1, 2)


def test_each_part_and_its_gradients() -> None:
    case = load("tapnext", "losses")
    xy, visible = truth_of(case)
    tracks, position, seen = (
        case.tensor(key, torch.float64).requires_grad_() for key in ("pred_tracks", "track_logits", "visible_logits")
    )
    logits = Logits(position.unflatten(-1, (2, BINS)), seen[..., 0])
    yx = from_raster(tracks)
    losses = tapnext_losses(yx, logits, xy=xy, visible=visible, known=torch.ones_like(visible), size=SIZE)
    losses["total"].backward()
    parts = {"position": "huber", "bins": "softmax", "visibility": "visibility", "total": "total"}
    assert set(losses) == set(parts)
    for part, key in parts.items():
        assert_close(losses[part], case[key], TOLERANCE, key)
    for values, key in ((tracks, "pred_tracks"), (position, "track_logits"), (seen, "visible_logits")):
        assert_close(values.grad, case[f"grad_{key}"], TOLERANCE, f"gradient of {key}")
    of_visible = tapnext_losses(yx, logits, xy=xy, visible=visible, known=visible, size=SIZE)
    assert_close(of_visible["bins"], case["softmax_masked"], TOLERANCE, "softmax_masked")
    assert_close(of_visible["position"], case["huber"], TOLERANCE, "huber")


def test_the_gradients_of_all_weights_in_a_step_of_training() -> None:
    case = load("tapnext", "small_train")
    model = model_of(case, torch.float64).train().requires_grad_()
    features = encoded(model, case)
    logits, _ = model.logits(features, described(model, case, features), Memory())
    xy, visible = truth_of(case)
    known = torch.ones_like(visible)
    losses = tapnext_losses(peak(logits.position), logits, xy=xy, visible=visible, known=known, size=SIZE)
    assert_close(losses["total"], case["loss"], TOLERANCE, "loss")
    losses["total"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert sorted(gradients) == sorted(case["grad_keys"].tolist())
    for name, norm in zip(case["grad_keys"].tolist(), case["grad_norms"], strict=True):
        gradient = gradients[name]
        assert gradient is not None, name
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-7, abs=1e-9), name
        if f"grad:{name}" in case:
            assert_close(gradient, case[f"grad:{name}"], TOLERANCE, name)


def example() -> tuple[torch.Tensor, Logits, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(1, 2, 3, 2, BINS, generator=generator)
    xy = torch.rand(1, 2, 3, 2, generator=generator) * 100
    return peak(position), Logits(position, torch.randn(1, 2, 3, generator=generator)), xy


def test_what_is_not_known_does_not_count() -> None:
    yx, logits, xy = example()
    visible = torch.ones(1, 2, 3, dtype=torch.bool)
    known = visible.clone()
    known[0, 1, 2] = False
    losses = tapnext_losses(yx, logits, xy=xy, visible=visible, known=known, size=(120, 90))
    xy[0, 1, 2] = torch.nan
    again = tapnext_losses(yx, logits, xy=xy, visible=visible, known=known, size=(120, 90))
    assert {k: float(v) for k, v in again.items()} == {k: float(v) for k, v in losses.items()}


def test_nothing_known_gives_zero_and_weights_weigh() -> None:
    yx, logits, xy = example()
    nothing = torch.zeros(1, 2, 3, dtype=torch.bool)
    losses = tapnext_losses(
        yx, logits, xy=xy, visible=nothing, known=nothing, size=(120, 90), weights=TapNextLossWeights(visibility=3)
    )
    assert losses["position"] == losses["bins"] == 0
    assert float(losses["total"]) == pytest.approx(3 * float(losses["visibility"]))


def test_the_truth_is_meant_in_pixels_of_the_video() -> None:
    """In a video of 512 x 128, (200.5, 3.25) is the centre of column 100 and row 7 of 256."""
    logits = torch.full((1, 1, 1, 2, BINS), -50.0)
    logits[..., 0, 7] = logits[..., 1, 100] = 50
    known = torch.ones(1, 1, 1, dtype=torch.bool)
    losses = tapnext_losses(
        peak(logits),
        Logits(logits, torch.full((1, 1, 1), 50.0)),
        xy=torch.tensor([[[[200.5, 3.25]]]]),
        visible=known,
        known=known,
        size=(512, 128),
    )
    assert float(losses["total"]) == pytest.approx(0, abs=1e-6)
