"""The matching loss rewards features that find their point again, and the jittered start stays near the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pointloom.models.base import FrameFeatures
from pointloom.models.cotracker2 import TINY as COTRACKER2_TINY
from pointloom.models.cotracker2 import CoTracker2
from pointloom.models.cotracker3 import TINY, CoTracker3
from pointloom.models.layers import unit_length
from pointloom.training.matching import MatchingLoss
from pointloom.training.objectives import JITTER_PX, jitter

SHIFT = torch.tensor([8.0, -4.0])  # pixels by which the second frame is moved: whole cells of both maps
STRIDE = 4


@pytest.fixture
def loss() -> MatchingLoss:
    return MatchingLoss(CoTracker3(replace(TINY, channels=64, fine_channels=64)))


def shifted_features(noise: float = 0.0) -> FrameFeatures:
    """Random features, smooth between cells, that move by SHIFT from frame 0 to frame 1."""
    torch.manual_seed(0)
    maps = []
    for cells in (2 / STRIDE, 1 / STRIDE):
        first = torch.randn(1, 24, 32, 64)
        dx, dy = (SHIFT * cells).int().tolist()
        second = first.roll((dy, dx), dims=(1, 2)) + noise * torch.randn_like(first)
        maps.append(unit_length(torch.stack([first, second], dim=1)))
    return FrameFeatures(tuple(maps), size=(128, 96), input=(128, 96))


POINTS = torch.tensor([[[16.0, 20.0], [20.0, 24.0], [24.0, 16.0]]])


def test_right_matches_cost_little_and_wrong_ones_much(loss: MatchingLoss) -> None:
    features = shifted_features()
    right = loss(features, POINTS, POINTS + SHIFT)
    wrong = loss(features, POINTS, POINTS - SHIFT)
    assert right["match"] < 0.1
    assert wrong["match"] > 5
    assert right["place_fine"] < 0.25 * wrong["place_fine"]


def test_features_of_any_length_are_told_apart_by_their_products() -> None:
    """As CoTracker v2 correlates them: a long feature elsewhere takes the place of the right one."""
    loss = MatchingLoss(CoTracker2(replace(COTRACKER2_TINY, channels=64, equal_length=False, peaks=False)))
    features = shifted_features()
    maps = (12 * features.maps[1],)
    right = loss(replace(features, maps=maps), POINTS, POINTS + SHIFT)["match"]
    assert right < 0.1
    louder = maps[0].clone()
    louder[:, 1, :, :16] *= 40  # columns in which no point lies
    assert loss(replace(features, maps=(louder,)), POINTS + 48, POINTS + 48 + SHIFT)["match"] > right + 1


def test_features_of_equal_length_are_as_sharp_from_the_start_as_those_of_length_one(loss: MatchingLoss) -> None:
    features = shifted_features(noise=1.0)
    scaled = replace(features, maps=(64**0.5 * features.maps[1],))
    equal = MatchingLoss(CoTracker2(replace(COTRACKER2_TINY, channels=64)))(scaled, POINTS, POINTS + SHIFT)
    torch.testing.assert_close(equal["match"], loss(features, POINTS, POINTS + SHIFT)["match"])


def test_a_target_between_two_cells_is_shared_by_them(loss: MatchingLoss) -> None:
    half_a_cell = torch.tensor([STRIDE / 2, 0.0])
    between = loss(shifted_features(), POINTS, POINTS + SHIFT + half_a_cell)
    exact = loss(shifted_features(), POINTS, POINTS + SHIFT)
    beyond = loss(shifted_features(), POINTS, POINTS + SHIFT + 2 * half_a_cell)
    assert exact["match"] < between["match"] < beyond["match"]


def test_gradients_reach_the_features_and_the_temperatures(loss: MatchingLoss) -> None:
    features = shifted_features(noise=1.0)
    leaves = tuple(m.clone().requires_grad_() for m in features.maps)
    parts = loss(replace(features, maps=leaves), POINTS, POINTS + SHIFT)
    sum(parts.values()).backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves)
    assert loss.log_temperatures.grad is not None
    assert (loss.log_temperatures.grad != 0).all()


def test_the_best_match_is_found_where_it_is(loss: MatchingLoss) -> None:
    with torch.inference_mode():
        found = loss.find(shifted_features().maps, POINTS)
    torch.testing.assert_close(found, POINTS + SHIFT, atol=0.3, rtol=0)


def test_a_jittered_start_knows_nothing_of_visibility_and_is_off_by_a_smooth_path() -> None:
    torch.manual_seed(1)
    xy = torch.zeros(1, 24, 400, 2)
    start = jitter(xy)
    assert (start.visibility_logit == 0).all()
    off = start.xy.norm(dim=-1)[0]  # (T, N)
    typical = off.square().mean(0).sqrt()
    assert typical.min() < 2 * JITTER_PX[0]
    assert 0.5 * JITTER_PX[1] < typical.max() < 4 * JITTER_PX[1]
    bend = start.xy.diff(dim=1).diff(dim=1).norm(dim=-1)[0].mean(0)
    assert (bend < 0.25 * typical + 0.2).all()  # no noise that averaging over frames would remove
