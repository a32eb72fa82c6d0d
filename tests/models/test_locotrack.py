"""LocoTrack through the interface of all trackers, and what its configuration refuses. A very small network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointloom.errors import OptionError
from pointloom.models import zoo
from pointloom.models.layers import correlation_volume
from pointloom.models.locotrack import BASE, TINY, LocoTrack, LocoTrackConfig, initialise, resolutions
from pointloom.models.weight_files import load_model, weights_hash
from pointloom.queries import Queries
from pointloom.tracking.tracker import Tracker

SMALL = LocoTrackConfig(
    iterations=2,
    resolution=(32, 48),
    refinements=((32, 48),),
    widths=(8, 8, 16, 16),
    radius=1,
    reader_widths=(16,),
    reader_kernels=(3,),
    reader_strides=(2,),
    heads=2,
    depth=1,
    mlp_ratio=2,
)
QUERIES = np.array([[0, 20, 10], [0, 40, 30], [3, 30, 20], [2, 5, 35]], np.float32)


def small_locotrack(config: LocoTrackConfig = SMALL) -> LocoTrack:
    """A very small network in double precision, whose tracks move."""
    model = LocoTrack(config)
    initialise(model, 0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(model.torch_pips_mixer.output_proj.weight, std=0.1)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> LocoTrack:
    return small_locotrack()


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)


def test_points_do_not_know_of_each_other(model: LocoTrack, video: np.ndarray) -> None:
    together = Tracker(model).track(video, Queries.points(QUERIES))
    assert np.ptp(together.xy, axis=1).max() > 1
    for n in range(len(QUERIES)):
        alone = Tracker(model).track(video, Queries.points(QUERIES[n : n + 1]))
        np.testing.assert_allclose(together.xy[n], alone.xy[0], atol=1e-4)
        np.testing.assert_allclose(together.confidence[n], alone.confidence[0], atol=1e-6)


def test_the_first_estimate_is_the_same_whether_points_are_matched_together_or_one_by_one(
    model: LocoTrack, video: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = model.encode(torch.from_numpy(video)[None])
    points = model.describe(features, torch.from_numpy(QUERIES).double()[None])
    together = model.first_estimate(features, points)
    monkeypatch.setattr("pointloom.models.locotrack.FRAMES_MATCHED_AT_ONCE", 1)
    for a, b in zip(together, model.first_estimate(features, points), strict=True):
        torch.testing.assert_close(a, b)


def test_at_one_resolution_maps_are_computed_once_and_at_two_those_of_the_first_estimate_as_well(
    model: LocoTrack, video: np.ndarray
) -> None:
    frames = torch.from_numpy(video)[None, :1]
    assert [tuple(m.shape[2:]) for m in model.encode(frames).maps] == [(16, 24, 8), (8, 12, 8), (4, 6, 16)]
    two = small_locotrack(replace(SMALL, refinements=((32, 48), (40, 56))))
    shapes = [tuple(m.shape[2:]) for m in two.encode(frames).maps]
    assert shapes == [(20, 28, 8), (10, 14, 8), (5, 7, 16), (8, 12, 8), (4, 6, 16)]


def test_resolutions_grow_to_that_of_the_video_in_multiples_of_8() -> None:
    config = replace(BASE, resolution=(64, 64), refinements=None)
    assert resolutions(config, (140, 90)) == [(64, 64), (72, 88), (88, 136)]
    assert resolutions(config, (64, 64)) == [(64, 64)]
    assert resolutions(config, (40, 50)) == [(64, 64)]


def test_beyond_the_map_features_count_as_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 1, 5, 6, 2, dtype=torch.float64, generator=generator)
    xy = torch.tensor([[0.3, 0.6], [-1.2, 2.5], [5.5, 4.25], [-40.0, 900.0]], dtype=torch.float64)
    ones = torch.ones(1, 4, 1, 1, 2, dtype=torch.float64)
    found = correlation_volume(maps, xy[None, :, None], ones, 1, outside="zero")[0, :, 0, ..., 0, 0]  # (N, P, P)
    offsets = torch.cartesian_prod(*[torch.arange(-1, 2)] * 2)  # x slow
    places = xy[:, None] + offsets
    grid = 2 * places / torch.tensor([5, 4]) - 1
    read = F.grid_sample(maps[0].movedim(-1, 1), grid[None], padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(found.flatten(1), read[0].sum(dim=0))


def test_gradients_reach_every_weight_but_those_of_numbers_that_nothing_uses(video: np.ndarray) -> None:
    model = small_locotrack().requires_grad_(True)
    features = model.encode(torch.from_numpy(video)[None])
    points = model.describe(features, torch.from_numpy(QUERIES).double()[None])
    total: Tensor = sum(e.xy.sum() + e.visibility_logit.sum() for e in model.iterate(features, points))  # type: ignore[assignment]
    total.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    unused = model.torch_pips_mixer.output_proj.weight.grad[4:]
    assert not unused.any()


def test_a_released_checkpoint_loads_without_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        zoo.ZOO, "small", zoo.ZooEntry("small", SMALL, "for a test", "Apache-2.0", "small.ckpt", url="-")
    )
    model = LocoTrack(SMALL)
    initialise(model, 0)
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "small.ckpt")
    assert weights_hash(load_model(tmp_path / "small.ckpt")) == weights_hash(model)


def test_weights_whose_licence_is_not_stated_are_not_for_companies() -> None:
    assert zoo.find_entry("locotrack-base").commercial is False


def test_tiny_is_of_a_million_parameters() -> None:
    with torch.device("meta"):
        assert 0.8e6 < LocoTrack(TINY).info.parameters < 1.2e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "must be even"),
        ({"reader_kernels": (3, 3)}, "a width, a kernel and a stride"),
        ({"reader_widths": (64, 128, 100)}, "multiples of 16"),
        ({"refinements": ()}, "got none"),
        ({"resolution": (250, 256)}, "multiple of 8"),
        ({"refinements": ((8, 8),)}, "at least 16"),
    ],
    ids=lambda value: None if isinstance(value, str) else ", ".join(value),
)
def test_sizes_that_cannot_work_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(BASE, **changes)
