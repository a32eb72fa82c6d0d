"""With a lead-in the first windows are shorter, so that every point begins among the new frames of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_models import LEADING_IN, STEP, TOGETHER, WINDOW, Blind, moving_noise, small_model, some_queries

from pointloom.models.base import Estimate, ModelInfo
from pointloom.models.cotracker3 import OFFLINE, ONLINE, TINY, CoTracker3
from pointloom.tracking.tracker import Tracker
from pointloom.tracking.windows import first_stop, run_window, window_spans

LEADING = small_model(LEADING_IN).double()
NOT_LEADING = small_model(TOGETHER).double()
EQUAL_PX = 1e-6

# ---- where windows begin


@pytest.mark.parametrize(
    ("frames", "step", "spans"),
    [
        (32, 8, [(0, 8), (0, 16), (8, 24), (16, 32)]),
        (8, 8, [(0, 8)]),
        (9, 8, [(0, 8), (0, 16)]),
        (1, 8, [(0, 8)]),
        (20, 4, [(0, 4), (0, 8), (0, 12), (0, 16), (4, 20)]),
        (6, 3, [(0, 1), (0, 4), (0, 7)]),
        (0, 8, []),
    ],
)
def test_the_first_windows_are_shorter(frames: int, step: int, spans: list[tuple[int, int]]) -> None:
    assert window_spans(frames, 16, step, lead_in=True) == spans


@pytest.mark.parametrize("lead_in", [False, True])
@pytest.mark.parametrize("step", range(1, 9))
def test_every_window_brings_new_frames_and_none_is_left_out(step: int, lead_in: bool) -> None:
    for frames in range(1, 50):
        spans = window_spans(frames, 16, step, lead_in=lead_in)
        stops = [stop for _, stop in spans]
        assert stops[0] == first_stop(16, step, lead_in=lead_in)
        assert stops[0] <= step if lead_in else stops[0] == 16
        assert stops[-1] >= frames
        assert all(stop < frames for stop in stops[:-1])
        assert all(later - stop == step for stop, later in pairwise(stops))
        assert [start for start, _ in spans] == [max(stop - 16, 0) for stop in stops]


# ---- what it changes


@pytest.mark.parametrize("frames", [1, STEP, 5, 19])
def test_each_window_starts_from_the_result_of_the_shorter_one_before_it(frames: int) -> None:
    video, queries = moving_noise(frames), some_queries(5, min(frames, STEP))
    features = LEADING.encode(torch.from_numpy(video)[None])
    points = LEADING.describe(features, torch.from_numpy(queries).double()[None])
    result = None
    found = np.zeros((len(queries), frames, 2))
    for start, stop in window_spans(frames, WINDOW, STEP, lead_in=True):
        seen = features.between(start, min(stop, frames)).padded(stop - start)
        prior = Estimate.at_queries(points.queries, stop)
        if result is not None:
            length, known = result.xy.shape[1], stop - STEP - start
            prior = replace(result.frames(length - known, length).extended(stop - start), memory=result.memory)
        result = run_window(LEADING, seen, points, prior, masked=True).result
        found[:, start:stop] = result.xy[0].transpose(0, 1)[:, : frames - start].numpy()
    led = Tracker(LEADING, device="cpu").track(video, queries)
    after = queries[:, :1] < np.arange(frames)
    np.testing.assert_allclose(led.xy[after], found[after], atol=EQUAL_PX)


@pytest.mark.parametrize("masked", [True, False])
def test_a_lead_in_changes_what_is_found(masked: bool) -> None:
    video, queries = moving_noise(19), some_queries(5, 19)
    led, not_led = (Tracker(m, device="cpu", masked=masked).track(video, queries) for m in (LEADING, NOT_LEADING))
    assert np.abs(led.xy - not_led.xy).max() > 1e-3


def test_a_backward_walk_leads_in_from_the_last_frame() -> None:
    video, queries = moving_noise(19), some_queries(5, 19)
    turned = queries * np.float32([-1, 1, 1]) + np.float32([18, 0, 0])
    backward = Tracker(LEADING, device="cpu").track(video, queries, direction="backward")
    forward = Tracker(LEADING, device="cpu").track(np.ascontiguousarray(video[::-1]), turned)
    np.testing.assert_allclose(backward.xy, forward.xy[:, ::-1], atol=EQUAL_PX)


@dataclass(frozen=True)
class NearConfig:
    leads_in: bool


class Near(Blind):
    """Finds a point that moves by 2.5 px a frame in each frame in which it starts less than 12 px from it."""

    @property
    def info(self) -> ModelInfo:
        outputs = ("visibility", "confidence")
        return ModelInfo(
            "Near", ("windowed",), 8, 4, 1, outputs, 1, "none", "none", "none", leads_in=self.config.leads_in
        )

    def iterate(self, features, points, prior=None, *, iterations=None, attended=None):
        truth = points.queries[:, None, :, 1:].repeat(1, len(features), 1, 1)
        truth[..., 0] += 2.5 * (features.start + torch.arange(len(features))).view(-1, 1)
        near = (prior.xy - truth).norm(dim=-1) < 12
        yield Estimate(torch.where(near[..., None], truth, prior.xy), near.float(), near.float())


@pytest.mark.parametrize("leads_in", [False, True])
def test_a_fast_point_of_the_first_frame_is_followed_with_a_lead_in_alone(leads_in: bool) -> None:
    video = np.zeros((24, 60, 120, 3), np.uint8)
    tracks = Tracker(Near(NearConfig(leads_in)), device="cpu").track(video, np.float32([[0, 20, 30]]))
    found = np.abs(tracks.xy[0, :, 0] - (20 + 2.5 * np.arange(24))) < 1e-3
    assert found[:5].all()
    assert found[5:].all() == leads_in  # 12.5 px away in frame 5, from where it was in frame 0
    assert found[5:].any() == leads_in


# ---- who does it


def test_tiny_leads_in_and_the_published_models_do_not() -> None:
    assert CoTracker3(TINY).info.leads_in
    assert not CoTracker3(replace(TINY, leads_in=False)).info.leads_in
    assert not OFFLINE.leads_in
    assert not ONLINE.leads_in


def test_a_model_that_sees_the_whole_video_at_once_needs_none() -> None:
    video, queries = moving_noise(19), some_queries(5, 19)
    led, not_led = (Tracker(m, mode="full", device="cpu").track(video, queries) for m in (LEADING, NOT_LEADING))
    np.testing.assert_array_equal(led.xy, not_led.xy)
