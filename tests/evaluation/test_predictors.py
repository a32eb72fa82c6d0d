"""Models and baselines behind one interface."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.made_clips import FRAMES, SIZE, sliding_frames
from pointloom import Queries, Tracker
from pointloom.errors import ModelError, OptionError
from pointloom.evaluation.predictors import Prediction, load_predictor
from pointloom.evaluation.protocols import PROTOCOLS, Protocol
from pointloom.models.classical import dis_flow, lucas_kanade
from pointloom.models.cotracker3 import CoTracker3Config
from pointloom.models.tapir import TapirConfig
from pointloom.models.weight_files import load_model, save_weights
from pointloom.models.zoo import build_model
from pointloom.tracking import official
from tracking.small_models import ALONE, TOGETHER, small_model

PLAIN = PROTOCOLS["pointloom-1"]
QUERIES = np.array([[0, 30, 40], [3, 50.25, 30.5]], np.float32)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return sliding_frames(frames=14)


def saved(folder: Path, config: CoTracker3Config = ALONE, seed: int = 0) -> str:
    save_weights(folder / "small.safetensors", small_model(config, seed), {})
    return str(folder / "small.safetensors")


def test_baselines_are_the_classical_trackers(frames: np.ndarray) -> None:
    for name, function in (("lucas-kanade", lucas_kanade), ("dis-flow", dis_flow)):
        found, expected = load_predictor(name, PLAIN).predict(frames, QUERIES), function(frames, QUERIES)
        np.testing.assert_array_equal(found.xy, expected.xy)
        np.testing.assert_array_equal(found.visibility, expected.seen)
        assert found.confidence is None
    static = load_predictor("static", PLAIN).predict(frames, QUERIES)
    np.testing.assert_array_equal(static.xy[1], np.repeat(QUERIES[1:, 1:], len(frames), axis=0))
    assert (static.visibility == 1).all()


def test_baselines_follow_the_direction_of_the_protocol(frames: np.ndarray) -> None:
    backward = load_predictor("lucas-kanade", PROTOCOLS["tapvid-strided"]).predict(frames, QUERIES)
    np.testing.assert_array_equal(backward.xy, lucas_kanade(frames, QUERIES, direction="both").xy)


def test_a_model_is_tracked_as_the_tracker_does(frames: np.ndarray, tmp_path: Path) -> None:
    path = saved(tmp_path)
    found = load_predictor(path, PLAIN).predict(frames, QUERIES)
    expected = Tracker(load_model(path)).track(frames, Queries.points(QUERIES))
    np.testing.assert_array_equal(found.xy, expected.xy)
    np.testing.assert_array_equal(found.visibility, expected.visibility)
    np.testing.assert_array_equal(found.confidence, expected.confidence)
    assert (found.input_size, found.confidence_px) == ((48, 32), 12)


def test_per_query_and_both_directions_reach_the_tracker(frames: np.ndarray, tmp_path: Path) -> None:
    path = saved(tmp_path, TOGETHER)
    protocol = replace(PROTOCOLS["tapvid-strided-alone"], resolution=None, iterations=1)
    found = load_predictor(path, protocol).predict(frames, QUERIES)
    tracker = Tracker(load_model(path), per_query=True, iterations=1)
    expected = tracker.track(frames, Queries.points(QUERIES), direction="both")
    np.testing.assert_array_equal(found.xy, expected.xy)
    together = load_predictor(path, replace(protocol, per_query=False, support_grid=0)).predict(frames, QUERIES)
    assert np.abs(together.xy - found.xy).max() > 1e-4


@pytest.mark.parametrize(
    ("modes", "name"),
    [
        (("windowed",), "cotracker3-first"),
        (("full",), "cotracker3-first"),
        (("full",), "cotracker3-first-alone"),
    ],
    ids=["online", "jointly", "one by one"],
)
def test_the_official_protocols_call_the_published_predictors(
    frames: np.ndarray, tmp_path: Path, modes: tuple[str, ...], name: str
) -> None:
    path = saved(tmp_path, replace(TOGETHER, modes=modes))
    found = load_predictor(path, PROTOCOLS[name]).predict(frames, QUERIES)
    model, video, queries = load_model(path), torch.from_numpy(frames)[None], torch.from_numpy(QUERIES)[None]
    if modes == ("windowed",):
        seen = official.track_online(model, video, queries)
        expected = Prediction(seen.xy[0].transpose(0, 1).numpy(), seen.visible[0].T.float().numpy(), None)
    else:
        run = official.evaluate_one_by_one if "alone" in name else official.evaluate_jointly
        joint = run(model, video, queries)
        expected = Prediction(joint.xy[0].transpose(0, 1).numpy(), joint.visibility[0].T.numpy())
    np.testing.assert_allclose(found.xy, expected.xy, atol=1e-4)
    np.testing.assert_allclose(found.visibility, expected.visibility, atol=1e-5)
    assert (found.confidence is None) == (modes == ("windowed",))  # the stream says only yes or no


def test_a_query_outside_the_frame_is_tracked_from_its_border(frames: np.ndarray, tmp_path: Path) -> None:
    outside = np.array([[0, -3, 20], [0, 30, SIZE[1] + 5.0], [0, -0.25, 10]], np.float32)
    for name in ("static", saved(tmp_path)):
        found = load_predictor(name, PLAIN).predict(frames, outside)
        np.testing.assert_allclose(found.xy[:, 0], [[0, 20], [30, SIZE[1] - 1], [-0.25, 10]])


def test_a_fingerprint_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    """Else what is kept would be refused; TAPIR's configuration has pairs within a tuple."""
    config = TapirConfig(refinements=((64, 64),), widths=(8, 8, 16, 16), mixer_width=32, mixer_depth=1)
    save_weights(tmp_path / "small.safetensors", build_model(config), {})
    fingerprint = load_predictor(str(tmp_path / "small.safetensors"), PLAIN).fingerprint
    assert json.loads(json.dumps(fingerprint)) == fingerprint


def test_the_fingerprint_knows_weights_and_configuration(tmp_path: Path) -> None:
    def fingerprint(config: CoTracker3Config = ALONE, seed: int = 0, protocol: Protocol = PLAIN) -> dict:
        return load_predictor(saved(tmp_path, config, seed), protocol).fingerprint

    one = fingerprint()
    assert fingerprint() == one
    assert fingerprint(seed=1)["weights"] != one["weights"]
    longer = fingerprint(replace(ALONE, iterations=3))
    assert longer["weights"] == one["weights"]
    assert longer["config"]["iterations"] == 3
    assert load_predictor("static", PLAIN).fingerprint == {"model": "static", "weights": None}


@pytest.mark.parametrize(
    ("source", "name"),
    [("static", "static"), ("still=static", "still"), ("FILE", "FOLDER/small"), ("mine=FILE", "mine")],
    ids=["baseline", "named baseline", "file", "named file"],
)
def test_a_predictor_has_its_name_from_the_caller_or_from_its_file(source: str, name: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    predictor = load_predictor(source.replace("FILE", path), PLAIN)
    assert predictor.name == name.replace("FOLDER", tmp_path.name)


@pytest.mark.parametrize("source", ["=static", "mine="])
def test_half_a_name_is_refused(source: str) -> None:
    with pytest.raises(OptionError, match="should be NAME=MODEL"):
        load_predictor(source, PLAIN)


@pytest.mark.parametrize(("wrong", "meant"), [("lukas-kanade", "lucas-kanade"), ("cotracker3-ofline", "offline")])
def test_an_unknown_name_is_answered_with_the_nearest_model_or_baseline(wrong: str, meant: str) -> None:
    with pytest.raises(ModelError, match=f"Did you mean .*{meant}"):
        load_predictor(wrong, PLAIN)


def test_no_queries_give_no_tracks(frames: np.ndarray, tmp_path: Path) -> None:
    none = np.zeros((0, 3), np.float32)
    sources = ("static", "lucas-kanade", "dis-flow", saved(tmp_path))
    for source in sources:
        assert load_predictor(source, PLAIN).predict(frames[:FRAMES], none).xy.shape == (0, FRAMES, 2)
    official_first = load_predictor(sources[-1], PROTOCOLS["cotracker3-first"])
    assert official_first.predict(frames[:FRAMES], none).xy.shape == (0, FRAMES, 2)
