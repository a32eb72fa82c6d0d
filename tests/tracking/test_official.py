"""What the published predictors do where no golden case looks, and what their callers can rely on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from golden_cases import RecordingModel, load, model_of
from pointloom.errors import OptionError
from pointloom.tracking import official
from pointloom.tracking.official import (
    OnlineState,
    begin_online,
    dense_queries,
    encoded,
    evaluate_jointly,
    evaluate_one_by_one,
    grid_queries,
    step_online,
    track_offline,
    track_online,
    whole_video,
)
from tapir_cases import SMALL_CAUSAL, small_tapir

SIZE = (48, 40)  # width, height


def small_model(**changes: Any) -> RecordingModel:
    """A windowed model (window 8, step 4) that sees frames of 96 x 64."""
    return model_of(load("cotracker3", "small_online_streaming_grid"), torch.float64, **changes)


def full_model(**changes: Any) -> RecordingModel:
    """The same kind of model that sees all frames at once."""
    return model_of(load("cotracker3", "small_eval_joint"), torch.float64, **changes)


def video(frames: int, videos: int = 1) -> torch.Tensor:
    """Smooth random pictures that drift."""
    width, height = SIZE
    coarse = np.random.RandomState(5).randint(0, 256, (videos, 8, 8 + frames, 3)).astype(np.float32)
    pictures = []
    for t in range(frames):
        part = torch.from_numpy(coarse[:, :, t : t + 8]).movedim(-1, 1)
        pictures.append(torch.nn.functional.interpolate(part, (height, width), mode="bilinear").movedim(1, -1))
    return torch.stack(pictures, dim=1).round().to(torch.uint8)


def one_query_on_every_frame(frames: int) -> torch.Tensor:
    random = np.random.RandomState(6).uniform(0.1, 0.9, (frames, 2)) * SIZE
    return torch.from_numpy(np.concatenate([np.arange(frames)[:, None], random], axis=1))[None]


def stream(model: RecordingModel, frames: torch.Tensor, state: OnlineState) -> OnlineState:
    window, step = model.info.window, model.info.step
    for chunk in [frames[:, :window], *frames[:, window:].split(step, dim=1)]:
        if chunk.shape[1]:
            state, _ = step_online(model, state, chunk)
    return state


# ------------------------------------------------------------------------------------------- stream and windows


@pytest.mark.parametrize("frames", [5, 7, 8, 9, 12, 13, 16, 18])
def test_a_stream_ends_with_what_the_walk_over_the_whole_video_gives(frames: int) -> None:
    """With a query on every frame, so also on each limit between one window and the next."""
    model, clip, queries = small_model(), video(frames), one_query_on_every_frame(frames)
    with torch.inference_mode():
        features = encoded(model, clip)
        walked = whole_video(model, features, model.describe(features, queries))
    streamed = stream(model, clip, begin_online(model, SIZE, queries)).stored
    assert (streamed.xy - walked.xy).abs().max() < 1e-9
    assert (streamed.visibility_logit - walked.visibility_logit).abs().max() < 1e-9
    assert (streamed.confidence_logit - walked.confidence_logit).abs().max() < 1e-9


@pytest.mark.parametrize("frames", [1, 4])
def test_a_video_no_longer_than_the_step_is_not_streamed(frames: int) -> None:
    model = small_model()
    answer = track_online(model, video(frames), torch.tensor([[[0.0, 9, 9], [0, 5, 5]]]))
    assert answer.xy.shape == (1, frames, 2, 2)
    assert not answer.xy.any()
    assert not answer.visible.any()
    assert model.runs == []


def test_a_whole_video_is_streamed_to_its_end() -> None:
    model, clip, queries = small_model(), video(14), one_query_on_every_frame(14)
    answer = track_online(model, clip, queries)
    state = stream(small_model(), clip, begin_online(model, SIZE, queries))
    assert torch.equal(answer.xy, state.stored.xy)
    assert torch.equal(answer.visible, state.stored.visibility * state.stored.confidence > 0.6)
    assert model.encoded_frames == 14


def test_a_step_leaves_its_state_as_it_was() -> None:
    model, clip = small_model(), video(12)
    state, _ = step_online(model, begin_online(model, SIZE, grid_size=2), clip[:, :8])
    stored = state.stored.xy.clone()
    once, answer = step_online(model, state, clip[:, 8:])
    again, same = step_online(model, state, clip[:, 8:])
    assert torch.equal(answer.xy, same.xy)
    assert torch.equal(once.stored.xy, again.stored.xy)
    assert torch.equal(state.stored.xy, stored)
    assert state.stored.xy.shape[1] == 8


def test_a_stream_keeps_the_features_of_the_overlap_alone() -> None:
    model, clip = small_model(), video(24)
    state = begin_online(model, SIZE, grid_size=2)
    for start, stop in [(0, 8), (8, 12), (12, 16), (16, 20), (20, 24)]:
        state, _ = step_online(model, state, clip[:, start:stop])
        assert (state.features.start, state.features.stop) == (stop - 4, stop)
        assert state.previous.xy.shape[1] == 8


@pytest.mark.parametrize("frames", [0, 9])
def test_a_chunk_of_the_wrong_length_is_refused(frames: int) -> None:
    model = small_model()
    with pytest.raises(OptionError, match=rf"1\.\.8 frames, got {frames}"):
        step_online(model, begin_online(model, SIZE), video(12)[:, :frames])


def test_a_later_chunk_brings_new_frames_only() -> None:
    model, clip = small_model(), video(16)
    state, _ = step_online(model, begin_online(model, SIZE), clip[:, :8])
    with pytest.raises(OptionError, match=r"1\.\.4 frames, got 8"):
        step_online(model, state, clip[:, 8:])


@pytest.mark.parametrize("lengths", [[7], [8, 3]])
def test_nothing_comes_after_a_short_chunk(lengths: list[int]) -> None:
    model, clip = small_model(), video(16)
    state, start = begin_online(model, SIZE), 0
    for length in lengths:
        state, _ = step_online(model, state, clip[:, start : start + length])
        start += length
    with pytest.raises(OptionError, match="the stream has ended"):
        step_online(model, state, clip[:, start : start + 1])


def test_support_points_of_a_stream_are_tracked_but_not_returned() -> None:
    model, queries = small_model(), torch.tensor([[[2.0, 9, 9]]])
    state, answer = step_online(model, begin_online(model, SIZE, queries, support_grid=True), video(8))
    assert answer.xy.shape[2] == 1
    assert state.stored.xy.shape[2] == 1 + 36
    assert not state.queries[:, 1:, 0].any()


# ----------------------------------------------------------------------------------------------------- backward


def test_a_fractional_frame_is_cut_after_it_was_mirrored() -> None:
    """Frame 5.7 of 12: 5 on the way there; 11 - 5.7 = 5.3, so 5 from the end, on the way back. That is frame 6."""
    model = full_model()
    track_offline(model, video(12), torch.tensor([[[5.7, 20.0, 15.0]]]), backward=True)
    there, back = model.runs
    assert there.points.frame[0, 0] == 5
    assert back.points.frame[0, 0] == 5
    forwards = encoded(model, video(12))
    for frame, run in [(5, there), (6, back)]:
        expected = model.describe(forwards, torch.tensor([[[frame, 20.0, 15.0]]], dtype=torch.float64))
        assert torch.equal(run.points.support[0][0, 0], expected.support[0][0, 0])


def test_frames_before_a_query_come_from_the_run_backwards() -> None:
    model, queries = full_model(), torch.tensor([[[5.7, 20.0, 15.0]]])
    answer = track_offline(model, video(12), queries, backward=True)
    there, back = (run.estimates[-1].xy[0, :, 0] for run in model.runs)
    assert torch.equal(answer.xy[0, :5, 0], back.flip(0)[:5])
    assert answer.xy[0, 5, 0].tolist() == [20, 15]
    assert torch.equal(answer.xy[0, 6:, 0], there[6:])


@pytest.mark.parametrize("backward", [False, True])
def test_in_its_own_frame_a_point_lies_at_its_query_and_is_visible(backward: bool) -> None:
    queries = one_query_on_every_frame(6)
    answer = track_offline(full_model(), video(6), queries, backward=backward)
    frame = torch.arange(6)
    assert torch.equal(answer.xy[0, frame, frame], queries[0, :, 1:])
    assert answer.visible[0, frame, frame].all()


# -------------------------------------------------------------------------------------------------------- grids


def grid_on(mask: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """x of the points of a 7 x 7 grid that stay, in pixels of frames of 96 x 64. The whole grid: 1.5, 17, ..., 94.5."""
    points = grid_queries(7, size=size, seen=(96, 64), mask=mask)[0]
    return np.unique(points[:, 1].numpy() * 95 / (size[0] - 1)).round(6)


@pytest.mark.parametrize(
    ("column", "x"),
    [(2, [1.5]), (1, []), (32, [32.5]), (33, []), (64, [63.5]), (63, []), (94, [94.5]), (95, []), (17, [17.0])],
)
def test_a_grid_point_looks_its_mask_up_at_the_nearest_pixel_halves_to_even(column: int, x: list[float]) -> None:
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[:, column] = True
    assert grid_on(mask, (96, 64)).tolist() == x


@pytest.mark.parametrize(("column", "x"), [(46, [63.5]), (47, [])])
def test_a_mask_is_resized_by_the_older_nearest_rule(column: int, x: list[float]) -> None:
    """Pixel 64 of 96 reads pixel floor(64 * 70 / 96) = 46 of 70; by centres it would be floor(64.5 * 70 / 96) = 47."""
    mask = torch.zeros(64, 70, dtype=torch.bool)
    mask[:, column] = True
    assert grid_on(mask, (70, 64)).tolist() == x


@pytest.mark.parametrize(
    ("options", "asked", "support"),
    [
        ({"queries": torch.tensor([[[0.0, 9, 9]]])}, 1, 36),
        ({"grid_size": 3}, 9, 0),
        ({"grid_size": 3, "mask": torch.ones(40, 48, dtype=torch.bool)}, 9, 36),
        ({"queries": torch.tensor([[[0.0, 9, 9]]]), "grid_size": 3}, 1, 0),
    ],
    ids=["queries", "grid", "masked grid", "queries and a grid size"],
)
def test_support_points_join_queries_and_masked_grids_only(options: dict[str, Any], asked: int, support: int) -> None:
    model = full_model()
    answer = track_offline(model, video(3), **options)
    assert answer.xy.shape[2] == asked
    assert len(model.runs[0].points) == asked + support


def test_every_pixel_is_a_query_once() -> None:
    parts = dense_queries((163, 21), frame=1)
    pixels = torch.cat(parts, dim=1)[0].int()
    assert len(parts) == 4
    assert (pixels[:, 0] == 1).all()
    # 163 x 21 pixels in steps of two: the last column and row have no partner and are left out
    assert sorted(map(tuple, pixels[:, 1:].tolist())) == [(x, y) for x in range(162) for y in range(20)]


def test_every_pixel_of_a_narrow_video_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 80 pixels wide, got 48"):
        track_offline(full_model(), video(2))


# ------------------------------------------------------------------------------------------------------ callers


@pytest.mark.parametrize("frames", [9, 10])
def test_frames_may_be_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    queries = torch.tensor([[[4.0, 20, 15]]])
    whole = evaluate_jointly(full_model(), video(frames), queries)
    monkeypatch.setattr(official, "ENCODED_AT_ONCE", 3)
    model = full_model()
    in_parts = evaluate_jointly(model, video(frames), queries)
    assert (whole.xy - in_parts.xy).abs().max() < 1e-9
    assert model.encoded_frames == frames


def test_two_videos_at_once_give_what_they_give_one_by_one() -> None:
    model, clips = full_model(), video(2, videos=2)
    queries = torch.tensor([[[0.0, 9, 9], [1, 30, 20]], [[1, 12, 30], [0, 5, 5]]])
    for predictor in (evaluate_jointly, evaluate_one_by_one):
        both = predictor(model, clips, queries)
        alone = [predictor(model, clips[k : k + 1], queries[k : k + 1]) for k in range(2)]
        assert (both.xy - torch.cat([e.xy for e in alone])).abs().max() < 1e-9


def test_one_by_one_a_query_does_not_depend_on_the_others() -> None:
    clip, queries = video(3), torch.tensor([[[0.0, 9, 9], [2, 30, 20]]])
    both = evaluate_one_by_one(full_model(), clip, queries)
    alone = evaluate_one_by_one(full_model(), clip, queries[:, 1:])
    assert torch.equal(both.xy[:, :, 1:], alone.xy)
    jointly = evaluate_jointly(full_model(), clip, queries)
    jointly_alone = evaluate_jointly(full_model(), clip, queries[:, 1:])
    assert (jointly.xy[:, :, 1:] - jointly_alone.xy).abs().max() > 1e-3


def test_queries_of_whole_numbers_may_be_integers() -> None:
    queries = torch.tensor([[[1, 20, 15]]])
    model, clip = full_model(), video(4)
    assert torch.equal(track_offline(model, clip, queries).xy, track_offline(model, clip, queries.double()).xy)
    online = small_model()
    for support_grid in (False, True):
        states = [begin_online(online, SIZE, q, support_grid=support_grid) for q in (queries, queries.double())]
        answers = [step_online(online, state, clip)[1] for state in states]
        assert torch.equal(answers[0].xy, answers[1].xy)


def test_no_queries_have_empty_tracks() -> None:
    nothing, clip = torch.zeros(1, 0, 3), video(6)
    assert track_offline(full_model(), clip, nothing, backward=True).xy.shape == (1, 6, 0, 2)
    assert evaluate_jointly(full_model(), clip, nothing).xy.shape == (1, 6, 0, 2)
    assert evaluate_one_by_one(full_model(), clip, nothing).xy.shape == (1, 6, 0, 2)


def test_a_fractional_frame_is_cut_for_the_description_of_a_point() -> None:
    model = full_model()
    features = encoded(model, video(7))
    described = [model.describe(features, torch.tensor([[[t, 20.0, 15.0]]]).double()) for t in (5.7, 5.0, 6.0)]
    patches = [points.support[0] for points in described]
    assert torch.equal(patches[0], patches[1])
    assert not torch.allclose(patches[0], patches[2])


def test_a_causal_model_remembers_what_it_saw() -> None:
    model, frames = small_tapir(SMALL_CAUSAL), video(6).double()
    features = encoded(model, frames)
    points = model.describe(features, torch.tensor([[[0, 20, 15], [2, 30, 22]]], dtype=torch.float64))
    found = whole_video(model, features, points)
    torch.testing.assert_close(found.xy, model.refine(features, points, iterations=official.ITERATIONS).xy)
    forgetful = model.refine(features.between(5, 6), points, iterations=official.ITERATIONS)
    assert float((found.xy[:, 5:] - forgetful.xy).abs().max()) > 1e-3
