"""CoTracker v2 through the interface of all trackers, and what its configuration refuses. A very small network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from pointloom.errors import OptionError
from pointloom.models.base import Estimate, FrameFeatures
from pointloom.models.cotracker2 import TINY, V2, CoTracker2, CoTracker2Config, initialise
from pointloom.models.layers import unit_length
from pointloom.models.weight_files import load_model, save_weights, weights_hash
from pointloom.queries import Queries
from pointloom.tracking.stream import Stream
from pointloom.tracking.tracker import Tracker

SMALL = CoTracker2Config(
    window=4,
    iterations=2,
    resolution=(32, 48),
    channels=8,
    radius=1,
    hidden=16,
    heads=2,
    mlp_ratio=2,
    time_depth=1,
    space_depth=1,
    virtual_tracks=2,
)


@pytest.fixture(scope="module")
def model() -> CoTracker2:
    model = CoTracker2(SMALL)
    initialise(model, 0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(model.updateformer.flow_head.weight, std=0.1)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 40, 60, 3), dtype=np.uint8)


QUERIES = Queries.points(np.array([[0, 20, 10], [0, 40, 30], [5, 30, 20]], np.float32))


def test_a_tracker_moves_it_over_a_video_and_a_stream_answers_the_same(model: CoTracker2, video: np.ndarray) -> None:
    tracks = Tracker(model).track(video, QUERIES)
    assert np.abs(tracks.xy[:, 1:] - tracks.xy[:, :1]).max() > 0.1
    assert set(np.unique(tracks.confidence)) == {0, 1}  # it knows no doubt, but nothing of frames before a query
    stream = Stream(model, answer="final")
    stream.add(np.array([[0, 20, 10], [0, 40, 30], [5, 30, 20]], np.float32))
    answers = [answer for frame in video for answer in stream.step(frame)] + stream.close()
    for answer in answers:
        xy = tracks.xy[answer.ids, answer.frame]
        np.testing.assert_allclose(answer.xy, xy, atol=1e-4)


def test_a_point_changes_nothing_in_windows_that_end_before_its_query(model: CoTracker2, video: np.ndarray) -> None:
    before = Tracker(model).track(video, Queries.points(np.array([[0, 20, 10], [0, 40, 30]], np.float32)))
    with_a_later_one = Tracker(model).track(video, QUERIES)
    np.testing.assert_allclose(with_a_later_one.xy[:2, :2], before.xy[:, :2], atol=1e-5)  # the next window has it
    assert np.abs(with_a_later_one.xy[:2, 5:] - before.xy[:, 5:]).max() > 1e-3


def test_a_point_that_was_not_looked_at_counts_as_surely_seen(model: CoTracker2, video: np.ndarray) -> None:
    features = model.encode(torch.from_numpy(video)[None, :4])
    points = model.describe(features, torch.tensor([[[0.0, 20, 10]]], dtype=torch.float64))
    fresh = Estimate.at_queries(points.queries, 4)
    told = Estimate(fresh.xy, torch.full_like(fresh.visibility_logit, 10), torch.ones_like(fresh.confidence_logit))
    first, second = model.refine(features, points, fresh), model.refine(features, points, told)
    torch.testing.assert_close(first.xy, second.xy)
    torch.testing.assert_close(first.visibility_logit, second.visibility_logit)


def test_weights_depend_on_the_seed_alone() -> None:
    first, same, other = (CoTracker2(SMALL) for _ in range(3))
    for model, seed in ((first, 1), (same, 1), (other, 2)):
        initialise(model, seed)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), same.state_dict().values(), strict=True))
    assert not torch.equal(first.fnet.conv1.weight, other.fnet.conv1.weight)


@pytest.mark.parametrize("stored", [True, False], ids=["tables stored", "tables computed again"])
def test_saved_weights_come_back_with_their_configuration(tmp_path: Path, stored: bool) -> None:
    config = replace(SMALL, stored_tables=stored)
    model = CoTracker2(config)
    initialise(model, 0)
    save_weights(tmp_path / "mine.safetensors", model, {})
    again = load_model(tmp_path / "mine.safetensors")
    assert again.config == config
    assert weights_hash(again) == weights_hash(model)
    assert torch.equal(again.get_buffer("pos_emb"), model.get_buffer("pos_emb"))


def test_tiny_is_of_two_million_parameters_at_most_and_keeps_no_tables() -> None:
    with torch.device("meta"):
        model = CoTracker2(TINY)
    assert 1e6 < model.info.parameters < 2e6
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


def test_features_can_have_an_equal_length(video: np.ndarray) -> None:
    frame = torch.from_numpy(video[None, :1])
    lengths = []
    for equal in (False, True):
        model = CoTracker2(replace(SMALL, equal_length=equal)).eval()
        with torch.inference_mode():
            lengths.append(model.encode(frame).maps[0].norm(dim=-1))
    assert lengths[0].std() > 0.1
    torch.testing.assert_close(lengths[1], torch.full_like(lengths[1], SMALL.channels**0.5))


@pytest.mark.parametrize("peaks", [False, True])
def test_before_training_peaks_draw_estimates_to_where_a_point_looks_the_same(peaks: bool) -> None:
    config = replace(SMALL, resize="as_is", channels=51, levels=1, radius=2, equal_length=True, peaks=peaks)
    model = CoTracker2(config).eval()
    initialise(model, 0)
    first = unit_length(torch.randn(20, 28, 51, generator=torch.Generator().manual_seed(1))) * 51**0.5
    moved = first.roll((1, -1), dims=(0, 1))  # by one cell, which is 4 pixels, down and to the left
    features = FrameFeatures((torch.stack([first, moved, moved, moved])[None],), size=(112, 80), input=(112, 80))
    queries = torch.tensor([[[0.0, x, y] for x in (40.0, 60.0, 80.0) for y in (32.0, 52.0)]])
    with torch.inference_mode():
        last = model.refine(features, model.describe(features, queries), iterations=1)
    error = (last.xy[:, 1:] - queries[:, None, :, 1:] - torch.tensor([-4.0, 4.0])).norm(dim=-1)
    expected = 0.5 * 32**0.5 if peaks else 32**0.5  # it goes half of the way at once
    torch.testing.assert_close(error, torch.full_like(error, expected), rtol=0.1, atol=0)


@pytest.mark.parametrize("compared", ["refined", "query"])
def test_what_is_compared_is_the_feature_as_refined_or_as_the_query_had_it(
    compared: Literal["refined", "query"], video: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CoTracker2(replace(SMALL, compared=compared)).eval()
    initialise(model, 0)
    seen = []
    original = model.correlations

    def noted(maps: Any, cells: torch.Tensor, feature: torch.Tensor) -> list[torch.Tensor]:
        seen.append(feature)
        return original(maps, cells, feature)

    monkeypatch.setattr(model, "correlations", noted)
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(video[None, :4]))
        points = model.describe(features, torch.tensor([[[0.0, 20, 10], [0.0, 40, 30]]]))
        model.refine(features, points)
    at_query = points.support[0][:, None, :, 0, 0].expand_as(seen[0])
    assert torch.equal(seen[0], at_query)
    assert torch.equal(seen[1], at_query) == (compared == "query")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 7}, "window must be even"),
        ({"peaks": True}, "set equal_length as well"),
        ({"heads": 5}, "multiple of heads"),
        ({"virtual_tracks": 0}, "needs virtual tracks"),
        ({"time_depth": 4, "space_depth": 3}, "multiple of the space depth"),
        ({"channels": 127}, "multiple of 4"),
        ({"resolution": (382, 512)}, "multiples of the stride"),
    ],
    ids=lambda value: None if isinstance(value, str) else ", ".join(value),
)
def test_sizes_that_cannot_work_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(V2, **changes)
