"""The published predictors against the reference: what they answer, and what they give to the model and get from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from golden_cases import PRECISIONS, Case, RecordingModel, Run, Tolerances, assert_close, load, model_of
from pointloom.models.base import Estimate
from pointloom.tracking.official import (
    SeenTracks,
    begin_online,
    evaluate_jointly,
    evaluate_one_by_one,
    step_online,
    track_offline,
    track_online,
)

PREDICTOR = (
    "small_predictor_queries_backward",
    "small_predictor_grid_mask",
    "small_predictor_windowed_backward",
    "predictor_queries",
    "predictor_grid_backward",
    "predictor_native_384x512",
)
STREAMING = ("small_online_streaming", "small_online_streaming_grid", "online_streaming_t43")
EVALUATION = ("small_eval_single", "small_eval_joint", "eval_single", "eval_joint")


def in_both_precisions(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, precision) for name in names for precision in PRECISIONS]


def assert_model_gives(case: Case, run: Run, estimate: Estimate, prefix: str, suffix: str, t: Tolerances) -> None:
    assert_close(run.to_model(estimate.xy), case[f"{prefix}model_tracks{suffix}"], t.model_pixels)
    assert_close(estimate.visibility, case[f"{prefix}model_visibility{suffix}"], t.model_probability)
    assert_close(estimate.confidence, case[f"{prefix}model_confidence{suffix}"], t.model_probability)


# ------------------------------------------------------------------------------------------------ offline predictor


@dataclass
class Predicted:
    case: Case
    tolerances: Tolerances
    model: RecordingModel
    answer: SeenTracks


def predict(name: str, precision: str) -> Predicted:
    case, tolerances = load("cotracker3", name), PRECISIONS[precision]
    model, options = model_of(case, tolerances.dtype), case.config["options"]
    answer = track_offline(
        model,
        torch.from_numpy(case["video"]),
        case.tensor("queries", tolerances.dtype) if "queries" in case else None,
        grid_size=options.get("grid_size", 0),
        grid_frame=options.get("grid_query_frame", 0),
        mask=torch.from_numpy(case["segm_mask"][0, 0] != 0) if "segm_mask" in case else None,
        backward=options.get("backward_tracking", False),
    )
    return Predicted(case, tolerances, model, answer)


@pytest.fixture(scope="module", params=in_both_precisions(PREDICTOR), ids="-".join)
def predicted(request: pytest.FixtureRequest) -> Predicted:
    return predict(*request.param)


def test_the_offline_predictor_answers_what_the_reference_answers(predicted: Predicted) -> None:
    assert_close(predicted.answer.xy, predicted.case["tracks"], predicted.tolerances.pixels, "tracks")
    assert np.array_equal(predicted.answer.visible, predicted.case["visible"])


def test_the_offline_predictor_asks_the_model_what_the_reference_asks(predicted: Predicted) -> None:
    runs = predicted.model.runs
    for k, run in enumerate([runs[0], runs[-1]] if "model_queries_1" in predicted.case else [runs[0]]):
        queries = predicted.case[f"model_queries_{k}"]
        assert_close(run.model_queries, queries, predicted.tolerances.intermediate, f"model_queries_{k}")
    assert predicted.model.encoded_frames == predicted.case["video"].shape[1]


def test_the_offline_predictors_model_gives_what_the_reference_gives(predicted: Predicted) -> None:
    case, runs, t = predicted.case, predicted.model.runs, predicted.tolerances
    frames, step = case["video"].shape[1], predicted.model.config.step
    passes = 2 if "model_queries_1" in case else 1
    for k in range(passes):
        windows = runs[k * len(runs) // passes : (k + 1) * len(runs) // passes]
        parts = [w.estimates[-1].frames(0, step) for w in windows[:-1]]
        last = windows[-1]
        parts.append(last.estimates[-1].frames(0, frames - last.features.start))
        assert_model_gives(case, last, Estimate.join(parts, axis="frames"), "", f"_{k}", t)


def test_frames_are_resized_as_by_the_reference(predicted: Predicted) -> None:
    case, t = predicted.case, predicted.tolerances
    resized = predicted.model.resized(torch.from_numpy(case["video"])[0].movedim(-1, 1))  # (T, 3, h, w)
    frame, y, x = case["resized_index"].T
    # values run to 255, so single precision is relative to that
    assert_close(resized[frame, :, y, x], case["resized_value"], t.intermediate, "resized_value")
    assert_close(resized.mean(dim=(0, 2, 3)), case["resized_mean"], t.intermediate, "resized_mean")


@pytest.mark.parametrize(("precision", "pixels", "share"), [("float64", 1e-7, 0.0), ("float32", 5e-3, 0.001)])
def test_every_pixel_is_tracked_as_by_the_reference(precision: str, pixels: float, share: float) -> None:
    predicted = predict("small_predictor_dense", precision)
    assert_close(predicted.answer.xy, predicted.case["tracks"], pixels, "tracks")
    assert np.mean(predicted.answer.visible.numpy() != predicted.case["visible"]) <= share
    assert len(predicted.model.runs) == predicted.case["n_calls"]
    assert predicted.model.encoded_frames == predicted.case["video"].shape[1]


# ------------------------------------------------------------------------------------------------- online predictor


@dataclass
class Streamed:
    case: Case
    tolerances: Tolerances
    model: RecordingModel
    answers: list[SeenTracks] = field(default_factory=list)
    stored: list[Estimate] = field(default_factory=list)


@pytest.fixture(scope="module", params=in_both_precisions(STREAMING), ids="-".join)
def streamed(request: pytest.FixtureRequest) -> Streamed:
    name, precision = request.param
    case, tolerances = load("cotracker3", name), PRECISIONS[precision]
    model, first_call = model_of(case, tolerances.dtype), case.config["first_call"]
    result = Streamed(case, tolerances, model)
    video = torch.from_numpy(case["video"])
    state = begin_online(
        model,
        (video.shape[3], video.shape[2]),
        case.tensor("queries", tolerances.dtype) if "queries" in case else None,
        grid_size=first_call.get("grid_size", 5),
        grid_frame=first_call.get("grid_query_frame", 0),
        support_grid=first_call.get("add_support_grid", False),
    )
    window, step = model.config.window, model.config.step
    for chunk in [video[:, :window], *video[:, window:].split(step, dim=1)]:
        state, answer = step_online(model, state, chunk)
        result.answers.append(answer)
        result.stored.append(state.stored)
    return result


def test_the_online_predictor_answers_what_the_reference_answers_after_every_chunk(streamed: Streamed) -> None:
    for m, answer in enumerate(streamed.answers):
        assert_close(answer.xy, streamed.case[f"step{m}_tracks"], streamed.tolerances.pixels, f"step{m}_tracks")
        assert np.array_equal(answer.visible, streamed.case[f"step{m}_visible"]), f"step{m}_visible"
    assert f"step{len(streamed.answers)}_tracks" not in streamed.case


def test_the_online_predictors_model_gives_what_the_reference_gives_after_every_chunk(streamed: Streamed) -> None:
    for m, stored in enumerate(streamed.stored):
        assert_model_gives(streamed.case, streamed.model.runs[m], stored, f"step{m}_", "", streamed.tolerances)


def test_windows_of_a_stream_begin_as_in_the_reference(streamed: Streamed) -> None:
    case, runs, t = streamed.case, streamed.model.runs, streamed.tolerances
    assert_close(runs[0].model_queries, case["model_queries"], t.intermediate, "model_queries")
    coords = torch.stack([run.to_model(run.prior.xy) for run in runs])
    assert_close(coords, case["window_init_coords"], t.model_pixels, "window_init_coords")
    logits = torch.stack([run.prior.visibility_logit for run in runs])
    assert_close(logits, case["window_init_vis_logit"], t.logit, "window_init_vis_logit")
    norms = torch.stack([run.support_norm for run in runs])
    assert_close(norms, case["window_support_norm_l0"], t.intermediate, "window_support_norm_l0")


def test_a_stream_encodes_every_frame_once(streamed: Streamed) -> None:
    assert streamed.model.encoded_frames == streamed.case["video"].shape[1]


def test_a_whole_video_is_streamed_in_the_same_chunks() -> None:
    case, t = load("cotracker3", "small_online_streaming_grid"), PRECISIONS["float64"]
    last = max(int(key[4 : key.index("_")]) for key in case.arrays if key.startswith("step"))
    model = model_of(case, t.dtype)
    video = torch.from_numpy(case["video"])
    queries = case.tensor("model_queries", t.dtype)
    size = (video.shape[3], video.shape[2])
    scale = torch.tensor([1, (size[0] - 1) / (96 - 1), (size[1] - 1) / (64 - 1)], dtype=t.dtype)
    answer = track_online(model, video, queries * scale)
    assert_close(answer.xy, case[f"step{last}_tracks"], t.pixels)
    assert np.array_equal(answer.visible, case[f"step{last}_visible"])


# --------------------------------------------------------------------------------------------- evaluation predictor


@dataclass
class Evaluated:
    case: Case
    tolerances: Tolerances
    model: RecordingModel
    estimate: Estimate


@pytest.fixture(scope="module", params=in_both_precisions(EVALUATION), ids="-".join)
def evaluated(request: pytest.FixtureRequest) -> Evaluated:
    name, precision = request.param
    case, tolerances = load("cotracker3", name), PRECISIONS[precision]
    model = model_of(case, tolerances.dtype)
    predictor = evaluate_one_by_one if case.config["options"]["single_point"] else evaluate_jointly
    estimate = predictor(model, torch.from_numpy(case["video"]), case.tensor("queries", tolerances.dtype))
    return Evaluated(case, tolerances, model, estimate)


def test_the_evaluation_predictor_answers_what_the_reference_answers(evaluated: Evaluated) -> None:
    estimate, t = evaluated.estimate, evaluated.tolerances
    assert_close(estimate.xy, evaluated.case["tracks"], t.pixels, "tracks")
    product = estimate.visibility * estimate.confidence
    assert_close(product, evaluated.case["visibility_times_confidence"], t.probability, "product")


def test_the_evaluation_predictor_asks_the_model_what_the_reference_asks(evaluated: Evaluated) -> None:
    runs = evaluated.model.runs
    for k, run in enumerate(runs):
        queries = evaluated.case[f"model_queries_{k}"]
        assert_close(run.model_queries, queries, evaluated.tolerances.intermediate, f"model_queries_{k}")
    assert f"model_queries_{len(runs)}" not in evaluated.case
    assert evaluated.model.encoded_frames == evaluated.case["video"].shape[1]


def test_the_evaluation_predictors_model_gives_what_the_reference_gives(evaluated: Evaluated) -> None:
    run = evaluated.model.runs[0]
    assert_model_gives(evaluated.case, run, run.estimates[-1], "", "_0", evaluated.tolerances)
