"""The walk over windows against the reference: where each window begins, from what, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from golden_cases import (
    PRECISIONS,
    Case,
    FirstIteration,
    Run,
    Tolerances,
    assert_close,
    load,
    model_of,
    watched,
)
from pointloom.models.base import Estimate
from pointloom.tracking.official import encoded, whole_video
from pointloom.training.losses import from_query_on

CASES = ("small_online_windowed", "small_online_windowed_t6", "online_windowed_t43")


@dataclass
class WindowedRun:
    case: Case
    tolerances: Tolerances
    queries: torch.Tensor
    windows: list[Run]
    result: Estimate
    first: FirstIteration


def run(name: str, tolerances: Tolerances) -> WindowedRun:
    case = load("cotracker3", name)
    model = model_of(case, tolerances.dtype)
    queries = case.tensor("queries", tolerances.dtype)
    with (
        torch.inference_mode(),
        watched(model.corr_mlp, calls=model.config.levels) as correlation,
        watched(model.updateformer, calls=1) as update,
    ):
        features = encoded(model, torch.from_numpy(case["video"]))
        points = model.describe(features, queries)
        result = whole_video(model, features, points, iterations=case.config["iters"])
    window = model.config.window
    padded = features.padded(-(-len(features) // window) * window)
    first = FirstIteration(padded, points, correlation, update)
    return WindowedRun(case, tolerances, queries, model.runs, result, first)


@pytest.fixture(scope="module", params=[(name, p) for name in CASES for p in PRECISIONS], ids="-".join)
def windowed(request: pytest.FixtureRequest) -> WindowedRun:
    name, precision = request.param
    return run(name, PRECISIONS[precision])


def test_tracks_visibility_and_confidence_of_the_whole_video(windowed: WindowedRun) -> None:
    case, result = windowed.case, windowed.result
    assert_close(result.xy, case["tracks"], windowed.tolerances.pixels, "tracks")
    assert_close(result.visibility, case["visibility"], windowed.tolerances.probability, "visibility")
    assert_close(result.confidence, case["confidence"], windowed.tolerances.probability, "confidence")


def test_windows_begin_where_and_as_in_the_reference(windowed: WindowedRun) -> None:
    case, windows, tolerances = windowed.case, windowed.windows, windowed.tolerances
    assert [w.features.start for w in windows] == case["window_start"].tolist()
    priors = [w.prior for w in windows]
    assert_close(torch.stack([p.xy for p in priors]), case["window_init_coords"], tolerances.pixels)
    assert_close(torch.stack([p.visibility_logit for p in priors]), case["window_init_vis_logit"], tolerances.logit)
    assert_close(torch.stack([p.confidence_logit for p in priors]), case["window_init_conf_logit"], tolerances.logit)


def test_support_of_queries_that_lie_ahead_is_zero(windowed: WindowedRun) -> None:
    norms = torch.stack([w.support_norm for w in windowed.windows])
    assert_close(norms, windowed.case["window_support_norm_l0"], windowed.tolerances.intermediate)


def test_every_window_gives_what_the_reference_gives(windowed: WindowedRun) -> None:
    case, tolerances = windowed.case, windowed.tolerances
    results = [w.estimates[-1] for w in windowed.windows]
    assert_close(torch.stack([e.xy for e in results]), case["window_coords"], tolerances.pixels)
    assert_close(torch.stack([e.visibility_logit for e in results]), case["window_vis_logit"], tolerances.logit)
    assert_close(torch.stack([e.confidence_logit for e in results]), case["window_conf_logit"], tolerances.logit)
    iterations = torch.stack([e.xy for e in windowed.windows[0].estimates])
    assert_close(iterations, case["window0_iter_coords"], tolerances.pixels, "window0_iter_coords")


def test_everything_inside_the_first_iteration_of_the_first_window(windowed: WindowedRun) -> None:
    windowed.first.assert_equals(windowed.case, windowed.tolerances)


def test_training_counts_the_frames_that_the_reference_counts(windowed: WindowedRun) -> None:
    case = windowed.case
    frames = case["video"].shape[1]
    lengths = [[min(len(w.features), frames - w.features.start)] * len(w.estimates) for w in windowed.windows]
    assert np.array_equal(lengths, case["train_window_lengths"])
    assert np.array_equal(from_query_on(windowed.queries, frames), case["train_mask"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_video_no_longer_than_the_step_is_not_tracked_by_the_reference(precision: str) -> None:
    tolerances = PRECISIONS[precision]
    untracked = run("small_online_windowed_t4", tolerances)
    assert untracked.windows == []
    for key, found in [
        ("tracks", untracked.result.xy),
        ("visibility", untracked.result.visibility),
        ("confidence", untracked.result.confidence),
    ]:
        assert_close(found, untracked.case[key], 0.0, key)
