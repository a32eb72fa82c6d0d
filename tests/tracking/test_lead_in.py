"""With a lead-in the first windows begin before the video, so that every point begins among the new frames of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_models import LEADING_IN, STEP, TOGETHER, WINDOW, Blind, moving_noise, small_model, some_queries

from pointloom.models.base import Estimate, FrameFeatures, ModelInfo
from pointloom.models.cotracker3 import OFFLINE, ONLINE, TINY, CoTracker3
from pointloom.tracking.tracker import Tracker
from pointloom.tracking.windows import first_start, window_starts

LEADING = small_model(LEADING_IN).double()
NOT_LEADING = small_model(TOGETHER).double()
EQUAL_PX = 1e-6

# ---- where windows begin


@pytest.mark.parametrize(
    ("frames", "step", "starts"),
    [
        (32, 8, [-8, 0, 8, 16]),
        (8, 8, [-8]),
        (9, 8, [-8, 0]),
        (1, 8, [-8]),
        (16, 4, [-12, -8, -4, 0]),
        (6, 3, [-15, -12, -9]),
        (0, 8, []),
    ],
)
def test_windows_begin_so_that_the_first_has_new_frames_alone(frames: int, step: int, starts: list[int]) -> None:
    assert window_starts(frames, 16, step, lead_in=True) == starts


@pytest.mark.parametrize("lead_in", [False, True])
@pytest.mark.parametrize("step", range(1, 9))
def test_every_window_brings_new_frames_and_none_is_left_out(step: int, lead_in: bool) -> None:
    for frames in range(1, 50):
        stops = [start + 16 for start in window_starts(frames, 16, step, lead_in=lead_in)]
        assert stops[0] == first_start(16, step, lead_in=lead_in) + 16 > 0
        assert stops[-1] >= frames
        assert all(stop < frames for stop in stops[:-1])
        assert all(later - stop == step for stop, later in pairwise(stops))
        if lead_in:
            assert stops[0] <= step


def test_the_first_frame_is_repeated_before_itself() -> None:
    frames = torch.arange(3.0).view(1, 3, 1, 1, 1)
    led = FrameFeatures((frames, 10 * frames), size=(4, 4), input=(4, 4), start=0).led_in(-2)
    assert (led.start, led.stop) == (-2, 3)
    assert [m.flatten().tolist() for m in led.maps] == [[0, 0, 0, 1, 2], [0, 0, 0, 10, 20]]
    assert led.led_in(0) is led


# ---- what it changes


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("frames", [1, 5, 19])
def test_tracks_are_those_of_a_video_whose_first_frame_stands_still_before_it(
    frames: int, direction: str, masked: bool
) -> None:
    video, queries = moving_noise(frames), some_queries(5, frames)
    options = {"device": "cpu", "masked": masked}
    led = Tracker(LEADING, **options).track(video, queries, direction=direction)
    lead = first_start(WINDOW, STEP, lead_in=True)
    forward = Tracker(NOT_LEADING, **options).track(
        np.concatenate([video[:1].repeat(-lead, 0), video]), queries - np.float32([lead, 0, 0])
    )
    after = queries[:, :1] < np.arange(frames)
    np.testing.assert_allclose(led.xy[after], forward.xy[:, -lead:][after], atol=EQUAL_PX)
    np.testing.assert_allclose(led.confidence[after], forward.confidence[:, -lead:][after], atol=EQUAL_PX)


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
