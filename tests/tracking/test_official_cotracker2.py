"""The published predictors with CoTracker v2 against the reference.

Which rules a predictor follows shows in single precision, and the network is large: so that is the only one here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cotracker2_cases import SINGLE, RecordingCoTracker2, model_of, unscaled
from golden_cases import Case, assert_close, load
from pointloom.models.base import Estimate
from pointloom.tracking import official
from pointloom.tracking.official import SeenTracks, begin_online, evaluate_jointly, step_online, track_offline


@pytest.fixture(scope="module", autouse=True)
def weights_are_dropped_at_the_end() -> Iterator[None]:
    yield
    unscaled.cache_clear()


@pytest.fixture(scope="module")
def predictor() -> Case:
    return load("cotracker2", "predictor")


@pytest.fixture(scope="module")
def shared_model(predictor: Case) -> RecordingCoTracker2:
    return model_of(predictor, SINGLE.dtype)


@pytest.fixture
def model(shared_model: RecordingCoTracker2) -> RecordingCoTracker2:
    shared_model.runs.clear()
    return shared_model


@pytest.fixture(scope="module")
def video(predictor: Case) -> torch.Tensor:
    return torch.from_numpy(predictor["video"])[None]


@pytest.fixture(scope="module")
def queries(predictor: Case) -> torch.Tensor:
    return predictor.tensor("queries", SINGLE.dtype)[None]


def given_by(model: RecordingCoTracker2, runs: slice, frames: int) -> Estimate:
    """What the windows of one pass gave, in pixels of the frames that the network sees."""
    windows, step = model.runs[runs], model.config.step
    parts = [window.estimates[-1].frames(0, step) for window in windows[:-1]]
    last = windows[-1]
    whole = Estimate.join([*parts, last.estimates[-1].frames(0, frames - last.features.start)], axis="frames")
    return Estimate(last.to_model(whole.xy), whole.visibility_logit, whole.confidence_logit)


def test_queries_with_support_points_there_and_back(
    model: RecordingCoTracker2, predictor: Case, video: torch.Tensor, queries: torch.Tensor
) -> None:
    case, t, frames = predictor, SINGLE, video.shape[1]
    answer = track_offline(model, video, queries, backward=True)
    assert_close(answer.xy[0], case["qb_tracks"], t.pixels, "qb_tracks")
    assert np.array_equal(answer.visible[0], case["qb_vis"])
    # the way there is that of the predictor without a way back
    from_query_on = np.arange(frames)[:, None] >= case["queries"][:, 0]
    assert_close(answer.xy[0][from_query_on], case["q_tracks"][from_query_on], t.pixels, "q_tracks")
    assert np.array_equal(answer.visible[0][from_query_on], case["q_vis"][from_query_on])
    half = len(model.runs) // 2
    there, back = (given_by(model, runs, frames) for runs in (slice(half), slice(half, None)))
    assert_close(there.xy[0], case["q_raw_tracks"], t.pixels, "q_raw_tracks")
    assert_close(there.visibility[0], case["q_raw_vis"], t.probability, "q_raw_vis")
    assert_close(back.visibility[0], case["qb_raw_back_vis"], t.probability, "qb_raw_back_vis")


def test_a_grid(model: RecordingCoTracker2, predictor: Case, video: torch.Tensor) -> None:
    answer = track_offline(model, video, grid_size=3, grid_frame=2)
    assert_close(answer.xy[0], predictor["g_tracks"], SINGLE.pixels, "g_tracks")
    assert np.array_equal(answer.visible[0], predictor["g_vis"])
    raw = given_by(model, slice(None), video.shape[1])
    assert_close(raw.visibility[0], predictor["g_raw_vis"], SINGLE.probability, "g_raw_vis")


def streamed(
    model: RecordingCoTracker2, video: torch.Tensor, queries: torch.Tensor
) -> Iterator[tuple[SeenTracks, Estimate]]:
    """The answer after every chunk, and what it was made of."""
    window, step = model.config.window, model.config.step
    state = begin_online(model, (video.shape[3], video.shape[2]), queries)
    for chunk in [video[:, :window], *video[:, window:].split(step, dim=1)]:
        state, answer = step_online(model, state, chunk)
        yield answer, state.stored


def test_a_stream(model: RecordingCoTracker2, predictor: Case, video: torch.Tensor, queries: torch.Tensor) -> None:
    answers = list(streamed(model, video, queries))
    assert len(answers) == predictor["on_steps"]
    for i, (answer, _) in enumerate(answers):
        assert_close(answer.xy[0], predictor[f"on_tracks_{i}"], SINGLE.pixels, f"on_tracks_{i}")
        assert np.array_equal(answer.visible[0], predictor[f"on_vis_{i}"]), f"on_vis_{i}"
    stored = answers[-1][1]
    assert_close(stored.visibility[0], predictor["on_raw_vis_last"], SINGLE.probability, "on_raw_vis_last")


def test_all_queries_at_once_for_evaluation(
    model: RecordingCoTracker2, predictor: Case, video: torch.Tensor, queries: torch.Tensor
) -> None:
    estimate = evaluate_jointly(model, video, queries)
    assert_close(estimate.xy[0], predictor["ev_tracks"], SINGLE.pixels, "ev_tracks")
    product = estimate.visibility * estimate.confidence
    assert_close(product[0], predictor["ev_vis"], SINGLE.probability, "ev_vis")


def test_a_stream_at_the_videos_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    case, whole = load("cotracker2", "online"), load("cotracker2", "w8")
    model = model_of(case, SINGLE.dtype)
    monkeypatch.setattr(official, "ITERATIONS", model.config.iterations)
    video = torch.from_numpy(whole["video"])[None, : case["frames"]]
    answers = list(streamed(model, video, case.tensor("queries", SINGLE.dtype)[None]))
    assert len(answers) == case["chunks"]
    for i, (_, stored) in enumerate(answers):
        assert_close(stored.xy[0], case[f"coords_{i}"], SINGLE.pixels, f"coords_{i}")
        assert_close(stored.visibility[0], case[f"vis_{i}"], SINGLE.probability, f"vis_{i}")
    stored = answers[-1][1]
    assert_close(stored.xy[0], case["whole_coords"], SINGLE.pixels, "whole_coords")
    assert_close(stored.visibility[0], case["whole_vis"], SINGLE.probability, "whole_vis")
