"""TAPNext over whole videos and streams: the drivers know nothing of it but that it is causal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from golden_cases import difference, load
from pointloom.geometry import to_raster
from pointloom.models.tapnext import BINS
from pointloom.queries import Queries
from pointloom.tracking.stream import Stream
from pointloom.tracking.tracker import Tracker
from pointloom.tracks import Tracks
from tapnext_cases import model_of, queries_of, small_tapnext

FLOAT32_PX = 2e-5  # tracks are stored in single precision


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (11, 40, 60, 3), dtype=np.uint8)


QUERIES = np.array([[0, 10, 5], [3, 31.5, 20.25], [3, 0, 39], [9, 50, 33]], np.float32)


def tracked(frames: np.ndarray, queries: np.ndarray, **options: object) -> Tracks:
    return Tracker(small_tapnext(), **options).track(frames, Queries.points(queries))


@pytest.mark.parametrize("backward", [False, True])
def test_the_tracker_gives_the_published_answers_of_a_clip(backward: bool) -> None:
    case = load("tapnext", "small_backward" if backward else "small_clip")
    model = model_of(case, torch.float64)
    queries = queries_of(model, case.tensor("query_points", torch.float64), (64, 64))[0].numpy()
    direction = "both" if backward else "forward"
    tracks = Tracker(model).track(case["video"][0], Queries.points(queries.astype(np.float32)), direction=direction)
    released = case["merged_tracks" if backward else "tracks"][0, :, :, ::-1].transpose(1, 0, 2)  # (N, T, 2)
    found = to_raster(tracks.xy) * (BINS / 64)  # the frame has 64 pixels and 256 bins
    t = np.arange(found.shape[1])
    counted = t != queries[:, :1] if backward else t > queries[:, :1]
    assert difference(found[counted], released[counted]) < 5e-4


def test_a_stream_answers_as_the_tracker_does_in_causal_mode(frames: np.ndarray) -> None:
    whole = tracked(frames, QUERIES, mode="causal")
    stream = Stream(small_tapnext())
    stream.add(QUERIES)
    for t, frame in enumerate(frames):
        (answer,) = stream.step(frame)
        assert answer.frame == t
        assert difference(answer.xy, whole.xy[answer.ids, t]) < FLOAT32_PX
        assert difference(answer.visibility, whole.visibility[answer.ids, t]) < 1e-6
    assert stream.close() == []


def test_with_all_queries_in_the_first_frame_both_modes_are_one(frames: np.ndarray) -> None:
    queries = QUERIES * (0, 1, 1)
    causal, full = tracked(frames, queries, mode="causal"), tracked(frames, queries, mode="full")
    assert difference(causal.xy, full.xy) < FLOAT32_PX
    assert difference(causal.confidence, full.confidence) < 1e-6


def test_a_later_query_changes_the_present_in_full_mode_only(frames: np.ndarray) -> None:
    for mode in ("causal", "full"):
        one, more = tracked(frames, QUERIES[:1], mode=mode), tracked(frames, QUERIES, mode=mode)
        change = np.abs(one.xy[0, :3] - more.xy[0, :3]).max()
        assert (change > 1e-3) == (mode == "full"), change


def test_a_stream_that_was_saved_goes_on_as_if_it_had_not_stopped(frames: np.ndarray) -> None:
    model = small_tapnext()
    one, other = Stream(model), Stream(model)
    one.add(QUERIES)
    for frame in frames[:5]:
        one.step(frame)
    other.load_state_dict(one.state_dict())
    for frame in frames[5:]:
        (expected,), (found,) = one.step(frame), other.step(frame)
        assert np.array_equal(found.xy, expected.xy)
