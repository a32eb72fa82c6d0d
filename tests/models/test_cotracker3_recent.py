"""How a point looks lately: what is remembered of it, and that this takes part in its look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pointloom.models.base import Estimate, FrameFeatures, Memory, PointFeatures
from pointloom.models.cotracker3 import RECENT_FRAMES, CoTracker3
from pointloom.models.layers import sample_patches
from pointloom.tracking.windows import walk
from tracking.small_models import ALONE, WINDOW, moving_noise, small_model, some_queries

RECENT = replace(ALONE, recent=True)
FRAMES = 20  # several windows


def seen_by(model: CoTracker3, frames: int = FRAMES) -> tuple[FrameFeatures, PointFeatures]:
    features = model.encode(torch.from_numpy(moving_noise(frames))[None])
    return features, model.describe(features, torch.from_numpy(some_queries(6, frames))[None])


def tracks(model: CoTracker3) -> list[Tensor]:
    return [window.result.xy for window in walk(model, *seen_by(model), window=WINDOW, step=4, masked=True)]


def with_share(share: float) -> CoTracker3:
    model = small_model(RECENT)
    model.recent_share.fill_(share).logit_()
    return model


def direction(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def test_a_share_of_nothing_is_the_model_without() -> None:
    for a, b in zip(tracks(with_share(0)), tracks(small_model(ALONE)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_share_changes_every_window() -> None:
    for a, b in zip(tracks(with_share(0.5)), tracks(small_model(ALONE)), strict=True):
        assert (a - b).abs().amax() > 1e-3


def test_the_first_step_of_the_first_window_knows_the_query_alone() -> None:
    first, *_ = (window.estimates[0].xy for window in walk(with_share(0.5), *seen_by(small_model()), window=8, step=4))
    without, *_ = (window.estimates[0].xy for window in walk(small_model(), *seen_by(small_model()), window=8, step=4))
    torch.testing.assert_close(first, without)


def test_what_a_window_remembers_is_known_to_the_first_step_of_the_next() -> None:
    model = with_share(0.5)
    features, points = seen_by(model)
    first, second, *_ = walk(model, features, points, window=WINDOW, step=4)
    assert second.prior.memory is first.result.memory is not None
    seen = features.between(4, 4 + WINDOW)
    forgetful = next(iter(model.iterate(seen, points, replace(second.prior, memory=None), iterations=2)))
    assert (second.estimates[0].xy - forgetful.xy).abs().amax() > 1e-3


def run(model: CoTracker3, prior: Estimate, iterations: int = 2, frames: int = WINDOW) -> list[Estimate]:
    features, points = seen_by(model, frames)
    points = replace(points, queries=points.queries * points.queries.new_tensor([0, 1, 1]))
    return list(model.iterate(features, points, prior, iterations=iterations))


@pytest.mark.parametrize("frames", [1, WINDOW, 3 * RECENT_FRAMES])
@pytest.mark.parametrize("known", [False, True])
def test_what_is_remembered_is_the_mean_look_where_the_point_is_seen(frames: int, known: bool) -> None:
    model = with_share(0.5)
    features, points = seen_by(model, frames)
    before = Memory(tuple(direction(torch.randn_like(s)) for s in points.support)) if known else None
    first, last = run(model, replace(Estimate.at_queries(points.queries, frames), memory=before), frames=frames)
    assert first.memory is before
    step = int(np.ceil(frames / RECENT_FRAMES))
    for level, rows in enumerate(last.memory.points):
        total = before.points[level].clone() if known else torch.zeros_like(points.support[level])
        cells = model.resizing.to_cells(first.xy, features.size) * 0.5**level
        for t in range(0, frames, step):
            patch = sample_patches(features.maps[level], torch.full((1, 6), t), cells[:, t], 1)
            total += (first.visibility * first.confidence)[:, t, :, None, None, None] * patch
        torch.testing.assert_close(rows, direction(total))


def test_what_is_remembered_stays_while_a_point_is_hidden() -> None:
    model = with_share(0.5)
    _, points = seen_by(model, WINDOW)
    before = Memory(tuple(direction(torch.randn_like(s)) for s in points.support))
    hidden = torch.full((1, WINDOW, 6), -50.0)
    _, last = run(model, replace(Estimate.at_queries(points.queries, WINDOW), visibility_logit=hidden, memory=before))
    for rows, old in zip(last.memory.points, before.points, strict=True):
        torch.testing.assert_close(rows, old)


def test_frames_before_a_query_are_not_remembered() -> None:
    model = with_share(0.5)
    features, points = seen_by(model, WINDOW)
    late = replace(points, queries=points.queries.index_fill(2, torch.tensor([0]), WINDOW))  # begins after this window
    *_, last = model.iterate(features, late)
    assert not any(rows.any() for rows in last.memory.points)


def test_it_is_remembered_in_half_precision_too() -> None:
    model = with_share(0.5)
    exact = tracks(model)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = tracks(model)
    for a, b in zip(coarse, exact, strict=True):
        torch.testing.assert_close(a, b, atol=0.5, rtol=0)


def test_a_single_step_hands_on_what_it_was_given() -> None:
    model = with_share(0.5)
    _, points = seen_by(model, WINDOW)
    before = Memory(tuple(direction(s) for s in points.support))
    (only,) = run(model, replace(Estimate.at_queries(points.queries, WINDOW), memory=before), iterations=1)
    assert only.memory is before
