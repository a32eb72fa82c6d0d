"""The losses: exact numbers and gradients of the reference, one full training step, and the rules one by one."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from golden_cases import Case, load, model_of
from pointloom.errors import OptionError
from pointloom.models.base import Estimate
from pointloom.tracking.windows import WindowResult, walk
from pointloom.training.losses import LossWeights, charbonnier, from_query_on, huber, logarithmic, tracking_losses

PARTS = {"visible": "loss_visible", "occluded": "loss_occluded", "confidence": "loss_conf", "visibility": "loss_vis"}
CASES = ("offline", "online", "online_ragged", "offline_batch2")


class Predictions:
    """The windows of a case, as leaves of which gradients can be asked."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float64) -> None:
        # frames beyond the clip hold NaN in the file; whatever they hold must not matter
        self.xy, self.seen, self.sure = (
            torch.from_numpy(np.nan_to_num(case[key], nan=123.0)).to(dtype).requires_grad_()
            for key in ("pred_coords", "pred_vis_logit", "pred_conf_logit")
        )
        self.windows = [
            WindowResult(
                int(start),
                Estimate(self.xy[w, 0], self.seen[w, 0], self.sure[w, 0]),
                [Estimate(*parts) for parts in zip(self.xy[w], self.seen[w], self.sure[w], strict=True)],
            )
            for w, start in enumerate(case["starts"])
        ]


def truth(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {
        "xy": case.tensor("gt", dtype),
        "visible": case.tensor("vis", torch.bool),
        "valid": torch.from_numpy(case["valid"] * case["model_mask"] > 0),
    }


@pytest.mark.parametrize("name", CASES)
def test_losses_equal_the_reference(name: str) -> None:
    case = load("losses", name)
    losses = tracking_losses(Predictions(case).windows, **truth(case))
    for part, key in {**PARTS, "total": "total"}.items():
        assert losses[part].item() == pytest.approx(float(case[key]), abs=1e-12), part


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_the_reference(name: str) -> None:
    case = load("losses", name)
    for part, leaf, key in [
        ("visible", "xy", "grad_visible"),
        ("occluded", "xy", "grad_occluded"),
        ("total", "xy", "grad_total_coords"),
        ("confidence", "sure", "grad_conf_logit"),
        ("visibility", "seen", "grad_vis_logit"),
    ]:
        predictions = Predictions(case)
        tracking_losses(predictions.windows, **truth(case))[part].backward()
        found = getattr(predictions, leaf).grad.numpy()
        inside = ~np.isnan(case[key])
        assert np.abs(found[inside] - case[key][inside]).max() <= 1e-12, part
        assert not found[~inside].any(), f"{part}: frames beyond the clip have a gradient"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_computed_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    case = load("losses", name)
    losses = tracking_losses(Predictions(case, dtype).windows, **truth(case, torch.float32))
    assert all(value.dtype == torch.float32 for value in losses.values())
    for part, key in PARTS.items():  # in bfloat16 the inputs are rounded, to three digits or so
        assert losses[part].item() == pytest.approx(float(case[key]), rel=1e-5 if dtype == torch.float32 else 0.02), (
            part
        )


def test_huber_equals_the_reference() -> None:
    case = load("losses", "huber")
    d = case.tensor("diff", torch.float64).requires_grad_()
    value = huber(d, float(case["delta"]))
    value.sum().backward()
    assert np.abs(value.detach().numpy() - case["value"]).max() <= 1e-12
    assert np.abs(d.grad.numpy() - case["grad"]).max() <= 1e-12


# ------------------------------------------------------------------------------------------- one training step


@functools.lru_cache(maxsize=1)
def training_step(name: str) -> tuple[Case, dict[str, float], dict[str, torch.Tensor], list[WindowResult]]:
    """One step through the model in float64: the case, the losses, all gradients, the windows."""
    case = load("losses", name)
    model = model_of(case, torch.float64)
    features = model.encode(torch.from_numpy(case["video"])[None])
    queries = case.tensor("queries", torch.float64)[None]
    frames, online = len(features), case.config["kind"] == "online"
    window, step = (model.config.window, model.config.step) if online else (frames, frames)
    windows = list(walk(model, features, model.describe(features, queries), window=window, step=step))
    valid = case.tensor("valid", torch.bool)[None]
    losses = tracking_losses(
        windows,
        xy=case.tensor("gt", torch.float64)[None],
        visible=case.tensor("vis", torch.bool)[None],
        valid=valid & from_query_on(queries, frames) if online else valid,
    )
    losses["total"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return case, {key: value.item() for key, value in losses.items()}, gradients, windows


@pytest.fixture(scope="module", params=["step_online", "step_offline"])
def step(request: pytest.FixtureRequest) -> tuple[Case, dict[str, float], dict[str, torch.Tensor], list[WindowResult]]:
    return training_step(request.param)


def test_a_training_step_has_the_losses_of_the_reference(step) -> None:
    case, losses, _, windows = step
    for part, key in {**PARTS, "total": "total"}.items():
        assert losses[part] == pytest.approx(float(case[key]), rel=1e-9), part
    assert [w.start for w in windows] == case["starts"].tolist()
    for window, expected in zip(windows, case["coords"], strict=True):
        frames = (~np.isnan(expected[:, 0, 0])).sum()
        assert np.abs(window.result.xy[0].detach().numpy() - expected)[:frames].max() < 1e-7


def test_a_training_step_has_the_gradients_of_the_reference(step) -> None:
    case, _, gradients, _ = step
    assert list(gradients) == case["param_names"].tolist()
    norms = np.array([float(g.norm()) for g in gradients.values()])
    # biases in front of a norm have a gradient of rounding only
    assert (np.abs(norms - case["grad_norms"]) <= 1e-9 * case["grad_norms"] + 1e-12).all()
    assert np.linalg.norm(norms) == pytest.approx(float(case["total_grad_norm"]), rel=1e-9)
    for key, name, tolerance in [
        ("grad_flow_head_weight", "updateformer.flow_head.weight", 1e-9),
        ("grad_vis_conf_head_weight", "updateformer.vis_conf_head.weight", 1e-9),
        ("grad_virtual_tracks", "updateformer.virual_tracks", 1e-9),
        ("grad_corr_mlp_fc2_bias", "corr_mlp.fc2.bias", 1e-9),
        ("grad_fnet_conv1_weight", "fnet.conv1.weight", 1e-6),  # stored in float32
    ]:
        found = gradients[name].numpy()
        assert np.abs(found - case[key]).max() <= tolerance * np.abs(case[key]).max(), name


# ------------------------------------------------------------------------------------------------------- rules


def still(frames: int = 4, points: int = 2, *, start: int = 0, xy: float = 0.0, logit: float = 0.0) -> WindowResult:
    """A window of one iteration in which every point stays where it is."""
    estimate = Estimate(
        torch.full((1, frames, points, 2), xy, requires_grad=True),
        torch.full((1, frames, points), logit, requires_grad=True),
        torch.full((1, frames, points), logit, requires_grad=True),
    )
    return WindowResult(start, estimate, [estimate])


def target(frames: int = 4, points: int = 2, *, xy: float = 0.0, visible: bool = True) -> dict[str, torch.Tensor]:
    return {
        "xy": torch.full((1, frames, points, 2), xy),
        "visible": torch.full((1, frames, points), visible),
        "valid": torch.ones(1, frames, points, dtype=torch.bool),
    }


def test_visible_points_pay_the_penalty_and_occluded_ones_the_distance() -> None:
    seen = tracking_losses([still()], **target(xy=4.0))
    hidden = tracking_losses([still()], **target(xy=4.0, visible=False))
    assert (seen["visible"].item(), seen["occluded"].item()) == (pytest.approx(8.0), 0.0)  # 4^2 / 2
    assert (hidden["visible"].item(), hidden["occluded"].item()) == (0.0, pytest.approx(4.0))


def test_another_penalty_takes_the_place_of_hubers() -> None:
    losses = tracking_losses([still()], **target(xy=4.0), penalty=lambda d: charbonnier(d, 3.0))
    assert losses["visible"].item() == pytest.approx(2.0)  # sqrt(16 + 9) - 3


def test_charbonnier_is_zero_at_zero_and_has_a_slope_below_one() -> None:
    d = torch.tensor([-1e3, -0.5, 0.0, 0.5, 1e3], dtype=torch.float64, requires_grad=True)
    cost = charbonnier(d, 0.5)
    cost.sum().backward()
    assert cost.tolist() == pytest.approx([999.5, 0.5 * 2**0.5 - 0.5, 0, 0.5 * 2**0.5 - 0.5, 999.5], abs=2e-4)
    assert d.grad.tolist() == pytest.approx([-1, -(0.5**0.5), 0, 0.5**0.5, 1], abs=1e-6)


def test_the_logarithmic_penalty_flattens_beyond_its_reach() -> None:
    d = torch.tensor([-12.0, 0.0, 0.01, 4.0, 12.0], dtype=torch.float64, requires_grad=True)
    cost = logarithmic(d, 1e-6, 4.0)
    cost.sum().backward()
    assert cost.tolist() == pytest.approx([4 * np.log(4), 0, 0.01, 4 * np.log(2), 4 * np.log(4)], abs=2e-5)
    assert d.grad.tolist() == pytest.approx([-1 / 4, 0, 1, 1 / 2, 1 / 4], abs=3e-3)


def test_later_iterations_weigh_more_and_the_sum_is_divided_by_their_number() -> None:
    near, far = still(xy=0.0).result, still(xy=2.0).result
    losses = tracking_losses([WindowResult(0, far, [far, near, far])], **target(visible=False))
    assert losses["occluded"].item() == pytest.approx((0.8**2 * 2 + 0.8 * 0 + 2) / 3)


def test_windows_weigh_the_same_whatever_their_length() -> None:
    # the second window has one frame inside the video of five
    losses = tracking_losses([still(xy=1.0), still(start=4, xy=3.0)], **target(5, visible=False))
    assert losses["occluded"].item() == pytest.approx((1 + 3) / 2)


def test_a_loss_over_nothing_is_zero_and_so_is_its_gradient() -> None:
    window, wanted = still(xy=5.0), target()
    wanted["valid"][:] = False
    losses = tracking_losses([window], **wanted)
    (losses["visible"] + losses["occluded"]).backward()
    assert losses["visible"].item() == losses["occluded"].item() == 0
    assert not window.result.xy.grad.any()


def test_unknown_positions_may_be_nan_where_they_do_not_count() -> None:
    window, wanted = still(xy=1.0), target()
    wanted["xy"][:, 2] = torch.nan
    wanted["valid"][:, 2] = False
    wanted["visible"][:, 2] = False
    losses = tracking_losses([window], **wanted)
    losses["total"].backward()
    assert losses["visible"].item() == pytest.approx(0.5)
    assert window.result.xy.grad.isfinite().all()
    assert not window.result.xy.grad[:, 2].any()


def test_valid_counts_in_the_track_losses_only() -> None:
    wanted = target(xy=30.0)
    everything = tracking_losses([still(logit=2.0)], **wanted)
    wanted["valid"][:] = False
    nothing = tracking_losses([still(logit=2.0)], **wanted)
    assert nothing["visible"].item() == 0 < everything["visible"].item()
    for part in ("confidence", "visibility"):
        assert nothing[part].item() == everything[part].item() > 0


def test_probabilities_can_be_learned_from_what_is_known_alone() -> None:
    window, wanted = still(logit=2.0), target()
    everything = tracking_losses([window], **wanted)
    wanted["xy"][:, 1:3] = torch.nan
    wanted["visible"][:, 1:3], wanted["valid"][:, 1:3] = False, False
    known = tracking_losses([window], **wanted, weights=LossWeights(known_only=True))
    for part in ("confidence", "visibility"):
        assert known[part].item() == pytest.approx(everything[part].item())
    (known["confidence"] + known["visibility"]).backward()
    for logits in (window.result.confidence_logit, window.result.visibility_logit):
        assert (logits.grad != 0).all(-1).tolist() == [[True, False, False, True]]
    wanted["valid"][:] = False
    nothing = tracking_losses([window], **wanted, weights=LossWeights(known_only=True))
    assert nothing["total"].item() == 0


def test_a_position_at_exactly_the_confidence_radius_is_right() -> None:
    wanted = target()
    wanted["xy"] += torch.tensor([3.0, 4.0])
    right = tracking_losses([still(logit=9.0)], **wanted, weights=LossWeights(confidence_px=5.0))
    wrong = tracking_losses([still(logit=9.0)], **wanted, weights=LossWeights(confidence_px=4.999))
    assert right["confidence"].item() < 0.001
    assert wrong["confidence"].item() > 8.9


def test_occluded_points_ask_for_no_confidence_but_count_in_its_mean() -> None:
    wanted = target()
    wanted["visible"][:, :, 0] = False
    assert tracking_losses([still()], **wanted)["confidence"].item() == pytest.approx(np.log(2) / 2)


def test_the_confidence_target_sends_no_gradient_to_positions() -> None:
    window = still(xy=1.0)
    tracking_losses([window], **target())["confidence"].backward()
    assert window.result.xy.grad is None
    assert window.result.confidence_logit.grad.any()


@pytest.mark.parametrize(("logit", "cost"), [(50.0, 50.0), (1000.0, 100.0), (-1000.0, 0.0)])
def test_sure_and_wrong_costs_its_logit_up_to_one_hundred(logit: float, cost: float) -> None:
    losses = tracking_losses([still(logit=logit)], **target(visible=False))
    assert losses["visibility"].item() == pytest.approx(cost)


def test_the_total_is_the_weighted_sum() -> None:
    weights = LossWeights(visible=2.0, occluded=3.0, confidence=5.0, visibility=7.0)
    wanted = target(xy=2.0)
    wanted["visible"][:, :2] = False
    losses = tracking_losses([still(logit=1.0)], **wanted, weights=weights)
    expected = sum(getattr(weights, part) * losses[part].item() for part in PARTS)
    assert losses["total"].item() == pytest.approx(expected)


def test_points_count_from_their_query_frame_on() -> None:
    counted = from_query_on(torch.tensor([[[0.0, 5, 5], [2.7, 5, 5], [3.0, 5, 5]]]), 4)
    assert counted[0].T.int().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]


def test_no_window_or_no_iteration_is_refused() -> None:
    estimate = still().result
    for windows in ([], [WindowResult(0, estimate, [])]):
        with pytest.raises(OptionError, match="at least one window"):
            tracking_losses(windows, **target())
