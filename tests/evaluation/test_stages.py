"""Time by stage, on clocks that tick when the test says so."""

from __future__ import annotations

import numpy as np
import pytest

from pointloom.evaluation.stages import STAGES, StageClock, TimedModel, TimedVideo
from pointloom.queries import Queries
from pointloom.tracking.tracker import Tracker
from pointloom.video import open_video
from tracking.small_models import small_model


class HandClock:
    """Shows what was set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Ticking:
    """Goes on by one second each time somebody looks."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3)).astype(np.uint8)


def test_a_moment_belongs_to_the_innermost_open_stage():
    clock = HandClock()
    stages = StageClock(clock)
    clock.sleep(100)  # before: nobody's
    with stages.stage("output"):
        clock.sleep(1)
        with stages.stage("encode"):
            clock.sleep(2)
            with stages.stage("decode"):
                clock.sleep(4)
            clock.sleep(8)
        clock.sleep(16)
    clock.sleep(100)  # between: nobody's
    with stages.stage("encode"):
        clock.sleep(32)
    assert dict(stages.seconds) == {"output": 17, "encode": 42, "decode": 4}


def test_a_stage_that_fails_is_closed():
    clock = HandClock()
    stages = StageClock(clock)

    def fail() -> None:
        with stages.stage("encode"):
            clock.sleep(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    clock.sleep(100)
    with stages.stage("output"):
        clock.sleep(2)
    assert dict(stages.seconds) == {"encode": 1, "output": 2}


def test_a_timed_model_and_video_give_the_same_tracks():
    stages = StageClock(Ticking())
    video = open_video(frames())
    queries = Queries.grid(3)
    plain = Tracker(small_model(), device="cpu").track(video, queries)
    timed = Tracker(TimedModel(small_model(), stages), device="cpu").track(TimedVideo(video, stages), queries)
    np.testing.assert_array_equal(timed.xy, plain.xy)
    np.testing.assert_array_equal(timed.visibility, plain.visibility)
    np.testing.assert_array_equal(timed.seconds, plain.seconds)
    assert timed.meta["source"] == plain.meta["source"]


def test_tracking_passes_through_every_stage():
    stages = StageClock(Ticking())
    tracker = Tracker(TimedModel(small_model(), stages), device="cpu")
    with stages.stage("output"):
        tracker.track(TimedVideo(open_video(frames()), stages), Queries.grid(3))
    assert set(stages.seconds) == set(STAGES)
    assert min(stages.seconds.values()) > 0


def test_each_pass_through_the_transformer_is_timed():
    """One pass an iteration: two looks at the clock, one second between them, and one before, between and after."""
    stages = StageClock(Ticking())
    Tracker(TimedModel(small_model(), stages), mode="full", iterations=3, device="cpu").track(frames(), Queries.grid(3))
    assert stages.seconds["transformer"] == 3
    assert stages.seconds["correlation"] == 4


def test_steps_of_a_timed_model_are_those_of_the_model():
    import torch

    model, stages = small_model(), StageClock(Ticking())
    features = model.encode(torch.from_numpy(frames())[None])
    points = model.describe(features, torch.tensor([[[0.0, 10, 12]]]))
    plain = list(model.iterate(features, points, iterations=2))
    timed = list(TimedModel(model, stages).iterate(features, points, iterations=2))
    assert len(timed) == 2
    assert torch.equal(timed[-1].xy, plain[-1].xy)
