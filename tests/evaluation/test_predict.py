"""What is asked of a clip, what is kept, and when it is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.made_clips import FRAMES, SIZE, dataset, joint_clip, masked_clip, sliding_clip, sliding_frames
from pointloom import Tracks
from pointloom.errors import DatasetError, FormatError, OptionError
from pointloom.evaluation import predictors
from pointloom.evaluation.metrics import mask_queries
from pointloom.evaluation.predict import PredictionStore, predict, questions
from pointloom.evaluation.protocols import PROTOCOLS
from pointloom.models.classical import static_point
from pointloom.models.weight_files import save_weights
from tracking.small_models import small_model

PLAIN = PROTOCOLS["pointloom-1"]
CLIPS = sliding_clip("a/one"), sliding_clip("a/two", seed=1), sliding_clip("b/three", seed=2)


@pytest.fixture
def store(tmp_path: Path) -> PredictionStore:
    return PredictionStore(tmp_path / "predictions")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of points of every call of the static baseline."""
    calls: list[int] = []

    def still(frames: np.ndarray, queries: np.ndarray, _: str) -> object:
        calls.append(len(queries))
        return static_point(queries, len(frames))

    monkeypatch.setitem(predictors.BASELINES, "static", still)
    return calls


# ---- questions


def test_points_are_asked_for_where_they_are_first_seen() -> None:
    (question,) = questions(sliding_clip(), PLAIN)
    assert question.mode == "first"
    np.testing.assert_allclose(question.queries, [[0, 30, 40], [0, 50.25, 30.5], [2, 44, 48]])


def test_strided_queries_come_every_fifth_frame() -> None:
    (question,) = questions(sliding_clip(), replace(PLAIN, queries="strided"))
    assert question.queries[:, 0].tolist() == [0, 0, 5, 5]  # the third point is hidden in frames 0 and 5
    assert question.track.tolist() == [0, 1, 0, 1]


def test_in_frame_0_every_track_is_asked_for_whether_it_is_seen_or_not() -> None:
    (question,) = questions(sliding_clip(), replace(PLAIN, queries="frame-0"))
    np.testing.assert_allclose(question.queries, [[0, 30, 40], [0, 50.25, 30.5], [0, 40, 50]])


def test_joints_are_asked_for_twice_the_second_time_all_from_the_first_annotated_frame() -> None:
    own, together = questions(joint_clip(), PLAIN)
    assert own.queries[:, 0].tolist() == [1, 1, 3]
    assert together.mode == "joints"
    np.testing.assert_allclose(together.queries, [[1, 32, 39], [1, 52.25, 29.5], [1, 42, 49]])


def test_masks_ask_for_points_on_the_object_and_beside_it() -> None:
    clip = masked_clip()
    (question,) = questions(clip, PLAIN)
    xy, on_object = mask_queries(clip.masks[0])
    np.testing.assert_array_equal(question.queries[:, 1:], xy)
    np.testing.assert_array_equal(question.track == 1, on_object)
    assert (question.queries[:, 0] == 0).all()


def test_queries_are_in_pixels_of_the_frames_that_are_tracked() -> None:
    (question,) = questions(sliding_clip(), PROTOCOLS["tapvid-first"])
    # x: (30 + 0.5) * 256 / 96 - 0.5; y: (40 + 0.5) * 256 / 64 - 0.5
    np.testing.assert_allclose(question.queries[0], [0, 30.5 * 256 / 96 - 0.5, 40.5 * 4 - 0.5], atol=1e-4)


# ---- keeping


def test_a_prediction_is_a_file_of_tracks_that_says_by_what_it_was_made(store: PredictionStore) -> None:
    predict(dataset(*CLIPS), ["lucas-kanade"], PLAIN, store)
    tracks = Tracks.load(store.folder / "lucas-kanade" / "a" / "one.first.npz")
    assert tracks.xy.shape == (3, FRAMES, 2)
    assert tracks.size == SIZE
    assert tracks.meta["protocol"] == PLAIN.as_meta()
    assert tracks.meta["model"] == {"model": "lucas-kanade", "weights": None}
    assert (tracks.meta["clip"], tracks.meta["query_mode"]) == ("a/one", "first")
    assert tracks.meta["pointloom"]
    np.testing.assert_allclose(tracks.xy[0], CLIPS[0].xy[0], atol=0.5)


def test_frames_are_tracked_at_the_size_of_the_protocol(store: PredictionStore) -> None:
    predict(dataset(CLIPS[0]), ["static"], PROTOCOLS["tapvid-first"], store)
    assert Tracks.load(store.path("static", "a/one", "first")).size == (256, 256)


def test_what_is_kept_is_not_tracked_again(store: PredictionStore, counted: list[int]) -> None:
    predict(dataset(*CLIPS), ["static"], PLAIN, store)
    assert counted == [3, 3, 3]
    predict(dataset(*CLIPS), ["static"], PLAIN, store)
    assert len(counted) == 3


def test_an_interrupted_run_goes_on_where_it_stopped(
    store: PredictionStore, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    still = predictors.BASELINES["static"]

    def interrupted(frames: np.ndarray, queries: np.ndarray, direction: object) -> object:
        if len(counted) == 2:
            raise KeyboardInterrupt
        return still(frames, queries, direction)

    monkeypatch.setitem(predictors.BASELINES, "static", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(dataset(*CLIPS), ["static"], PLAIN, store)
    monkeypatch.setitem(predictors.BASELINES, "static", still)
    predict(dataset(*CLIPS), ["static"], PLAIN, store)
    assert len(counted) == 3  # two before, one after


def test_in_several_processes_the_answers_are_the_same(store: PredictionStore, tmp_path: Path) -> None:
    save_weights(tmp_path / "small.safetensors", small_model(), {})
    sources = [f"small={tmp_path}/small.safetensors", "lucas-kanade"]
    one = PredictionStore(tmp_path / "one")
    seen: list[tuple[int, int | None]] = []
    predict(dataset(*CLIPS), sources, PLAIN, one)
    predict(dataset(*CLIPS), sources, PLAIN, store, workers=2, progress=lambda *done: seen.append(done))
    assert len(seen) == 3
    for clip in CLIPS:
        for model in ("small", "lucas-kanade"):
            there, here = (Tracks.load(s.path(model, clip.name, "first")) for s in (store, one))
            np.testing.assert_allclose(there.xy, here.xy, atol=1e-3)  # another number of threads sums in another order
            assert there.meta == here.meta


def test_at_most_so_many_clips_are_tracked(store: PredictionStore, counted: list[int]) -> None:
    predict(dataset(*CLIPS), ["static"], PLAIN, store, limit=2)
    assert len(counted) == 2


# ---- refusing


def refused(store: PredictionStore, again: Callable[[], object], field: str) -> None:
    with pytest.raises(FormatError, match=f"was made with {re.escape(field)} = .*Choose another folder"):
        again()


def test_a_prediction_by_another_protocol_is_refused_with_the_field_that_differs(store: PredictionStore) -> None:
    predict(dataset(CLIPS[0]), ["static"], PLAIN, store)
    other = replace(PLAIN, seen=replace(PLAIN.seen, threshold=0.9))
    refused(store, lambda: predict(dataset(CLIPS[0]), ["static"], other, store), "protocol.seen.threshold")


def test_a_prediction_by_other_weights_is_refused(store: PredictionStore, tmp_path: Path) -> None:
    for seed in (0, 1):
        save_weights(tmp_path / f"{seed}.safetensors", small_model(seed=seed), {})
    predict(dataset(CLIPS[0]), [f"mine={tmp_path}/0.safetensors"], PLAIN, store)
    again = f"mine={tmp_path}/1.safetensors"
    refused(store, lambda: predict(dataset(CLIPS[0]), [again], PLAIN, store), "model.weights")


def test_a_prediction_by_another_version_of_the_package_is_refused(
    store: PredictionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(dataset(CLIPS[0]), ["static"], PLAIN, store)
    monkeypatch.setattr("pointloom.evaluation.predict.version", lambda name: "99.0")
    refused(store, lambda: predict(dataset(CLIPS[0]), ["static"], PLAIN, store), "pointloom")


def test_a_prediction_for_other_frames_is_refused(store: PredictionStore) -> None:
    predict(dataset(CLIPS[0]), ["static"], PLAIN, store)
    changed = replace(CLIPS[0], frames=sliding_frames(seed=9))
    refused(store, lambda: predict(dataset(changed), ["static"], PLAIN, store), "frames")


def test_a_prediction_for_other_queries_is_refused(store: PredictionStore) -> None:
    predict(dataset(CLIPS[0]), ["static"], PLAIN, store)
    corrected = replace(CLIPS[0], xy=CLIPS[0].xy + 1)
    refused(store, lambda: predict(dataset(corrected), ["static"], PLAIN, store), "queries")


def test_a_file_that_is_no_prediction_is_refused(store: PredictionStore) -> None:
    path = store.path("static", "a/one", "first")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(FormatError, match="not a file of tracks"):
        predict(dataset(CLIPS[0]), ["static"], PLAIN, store)


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "a/../../b", "..", "a//b", "ä ö:*?"])
def test_names_of_clips_and_models_cannot_lead_out_of_the_folder(store: PredictionStore, name: str) -> None:
    for path in (store.path("model", name, "first"), store.path(name, "clip", "first")):
        assert path.resolve().is_relative_to(store.folder.resolve())
        assert ".." not in path.parts


def test_the_names_of_models_are_read_from_the_folder(store: PredictionStore) -> None:
    assert store.models() == []
    predict(dataset(CLIPS[0]), ["my/own model=static", "lucas-kanade"], PLAIN, store)
    assert store.models() == ["lucas-kanade", "my/own model"]


def test_two_models_of_one_name_are_refused(store: PredictionStore) -> None:
    with pytest.raises(OptionError, match="two models are called 'static'"):
        predict(dataset(CLIPS[0]), ["static", "static=lucas-kanade"], PLAIN, store)


def test_two_clips_of_one_name_are_refused(store: PredictionStore) -> None:
    with pytest.raises(DatasetError, match="two clips of the data set are called 'a/one'"):
        predict(dataset(CLIPS[0], CLIPS[0]), ["static"], PLAIN, store)


def test_a_clip_with_tracks_and_one_with_masks_may_share_a_name(store: PredictionStore) -> None:
    predict(dataset(sliding_clip("dog"), masked_clip("dog")), ["static"], PLAIN, store)
    assert store.path("static", "dog", "first").is_file()
    assert store.path("static", "dog", "mask").is_file()


def test_a_clip_that_cannot_be_tracked_is_named(store: PredictionStore) -> None:
    small = replace(CLIPS[0], frames=CLIPS[0].frames[:, :20])
    with pytest.raises(DatasetError, match="dis-flow cannot track a/one: dense flow needs frames"):
        predict(dataset(small), ["dis-flow"], PLAIN, store)
