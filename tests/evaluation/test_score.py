"""Scores of clips whose truth is known, and the means over them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.made_clips import SIZE, dataset, joint_clip, masked_clip, sliding_clip
from pointloom import Tracks
from pointloom.datasets.clip import AnnotatedClip, Clip, MaskedClip
from pointloom.errors import DatasetError, FormatError
from pointloom.evaluation.metrics import (
    aj_rd,
    badja,
    dynamic_replica,
    evaluated_frames,
    mask_agreement,
    reappearances,
    tapvid,
)
from pointloom.evaluation.predict import PredictionStore, Question, about_clip, predict, questions
from pointloom.evaluation.protocols import PROTOCOLS, Protocol
from pointloom.evaluation.results import ALL, GROUPS, Results
from pointloom.evaluation.score import LEAST_MASK_QUERIES, ClipScore, score, score_clip, summarise

PLAIN = PROTOCOLS["pointloom-1"]


def answer(
    question: Question, clip: Clip, protocol: Protocol, off_px: float = 0.0, confidence_px: float | None = 12
) -> Tracks:
    """What a tracker would say that knows the truth, but is `off_px` too far right, in pixels of the video."""
    assert isinstance(clip, AnnotatedClip)
    xy = protocol.enter(clip.xy[question.track] + np.float32([off_px, 0]), clip.size)
    visibility = clip.visible[question.track].astype(np.float32)
    meta = {
        **about_clip(clip, protocol, question.mode),
        "model": {"model": "oracle", "weights": "abc"},
        "confidence": True,
        "input_size": [128, 128],
        "confidence_px": confidence_px,
        "pointloom": "1",
    }
    size = protocol.frame_size(clip.size)
    seconds = np.arange(xy.shape[1])
    return Tracks(xy, visibility, np.full_like(visibility, 0.9), question.queries, seconds, size, meta=meta)


def scored(clip: Clip, protocol: Protocol = PLAIN, *, model: str = "oracle", **said: Any) -> ClipScore:
    asked = questions(clip, protocol)
    return score_clip(clip, model, protocol, asked, [answer(question, clip, protocol, **said) for question in asked])


@pytest.mark.parametrize("name", ["pointloom-1", "tapvid-first", "tapvid-strided", "cotracker3-first"])
def test_the_truth_scores_100_by_every_protocol(name: str) -> None:
    scores = scored(sliding_clip(), PROTOCOLS[name]).scores.scores
    assert (scores["aj"], scores["delta_avg"], scores["oa"]) == (100, 100, 100)
    assert scores["epe"] == pytest.approx(0, abs=1e-4)


def test_points_get_tapvids_scores() -> None:
    clip = sliding_clip()
    (question,) = questions(clip, PLAIN)
    tracks = answer(question, clip, PLAIN, off_px=1.0)
    found = score_clip(clip, "oracle", PLAIN, [question], [tracks])
    expected = tapvid(
        PLAIN.measured(tracks.xy, SIZE),
        PLAIN.measured(clip.xy, SIZE),
        predicted_visible=clip.visible,
        visible=clip.visible,
        evaluated=evaluated_frames(np.array([0, 0, 2]), 8, mode="first"),
    )
    assert {name: found.scores.scores[name] for name in expected} == expected
    # 1 px of 96 is 256 / 96 = 2.67 px of 256: within 4, 8 and 16
    assert found.scores.scores["delta_avg"] == pytest.approx(60)
    assert found.scores.scores["epe"] == pytest.approx(256 / 96, abs=1e-3)
    assert (found.scores.group, found.scores.kind, found.weights) == ("", "points", "abc")


def test_the_visibility_rule_is_that_of_the_protocol() -> None:
    clip = sliding_clip()
    (question,) = questions(clip, PLAIN)
    tracks = replace(answer(question, clip, PLAIN), visibility=np.full(clip.visible.shape, 0.55, np.float32))
    strict = replace(PLAIN, seen=replace(PLAIN.seen, threshold=0.6))
    lenient = replace(PLAIN, seen=replace(PLAIN.seen, threshold=0.4))
    everything = score_clip(clip, "m", lenient, [question], [tracks]).scores.scores["oa"]
    nothing = score_clip(clip, "m", strict, [question], [tracks]).scores.scores["oa"]
    assert everything + nothing == pytest.approx(100)
    assert everything > nothing


def test_what_is_not_valid_does_not_count() -> None:
    clip = sliding_clip()
    valid, visible = clip.valid.copy(), clip.visible.copy()
    valid[:, 3], visible[:, 3] = False, False
    wrong = clip.xy.copy()
    wrong[:, 3] += 50
    broken = replace(clip, xy=wrong, valid=valid, visible=visible)
    (question,) = questions(broken, PLAIN)
    tracks = answer(question, clip, PLAIN)  # says that the points are where they are, and seen
    assert score_clip(broken, "m", PLAIN, [question], [tracks]).scores.scores["aj"] == 100


def test_joints_get_badja_from_the_first_annotated_frame_and_no_score_of_visibility() -> None:
    clip = joint_clip()
    found = scored(clip, off_px=3.5).scores
    assert found.kind == "joints"
    _, question = questions(clip, PLAIN)
    expected = badja(
        answer(question, clip, PLAIN, 3.5).xy,
        clip.xy,
        visible=clip.visible,
        area=clip.area,
        evaluated=evaluated_frames(np.ones(3), 8, mode="first", valid=clip.valid),
        size=SIZE,
    )
    assert found.scores["badja"] == expected["badja"] == 100  # 3.5 px are less than 0.2 * sqrt(400) = 4
    assert found.scores["delta_16"] == 100
    assert not {"aj", "oa", "jaccard_1"} & found.scores.keys()
    assert scored(clip, off_px=4.5).scores.scores["badja"] == 0


def test_badja_is_measured_in_pixels_of_the_video_whatever_was_tracked() -> None:
    found = scored(joint_clip(), PROTOCOLS["tapvid-first"], off_px=3.5)
    assert found.scores.scores["badja"] == 100
    assert scored(joint_clip(), PROTOCOLS["tapvid-first"], off_px=4.5).scores.scores["badja"] == 0


@pytest.mark.parametrize("name", ["pointloom-1", "tapvid-first"])
def test_masks_get_their_agreement(name: str) -> None:
    clip, protocol = masked_clip(), PROTOCOLS[name]
    (question,) = questions(clip, protocol)
    xy = np.repeat(question.queries[:, None, 1:], 8, axis=1)
    seen = np.ones(xy.shape[:2], np.float32)
    meta = {
        "model": {"weights": None},
        "confidence": False,
        "input_size": None,
        "confidence_px": None,
        "pointloom": "1",
    }
    size = protocol.frame_size(SIZE)
    tracks = Tracks(xy, seen, seen, question.queries, np.arange(8), size, meta=meta)
    found = score_clip(clip, "still", protocol, [question], [tracks])
    expected = mask_agreement(
        clip.masks, protocol.leave(xy, SIZE), predicted_visible=seen > 0, on_object=question.track == 1
    )
    assert found.scores.scores == expected
    assert found.scores.kind == "masks"
    assert 0 < expected["mf"] < 100


def test_a_mask_with_few_points_on_the_object_has_no_score() -> None:
    masks = np.zeros((8, 256, 256), bool)
    for corner in (100, 140):  # two dots far from each other, which the grid over both hardly meets
        masks[:, corner : corner + 7, corner : corner + 7] = True
    small = MaskedClip("masks/dots", np.zeros((8, 256, 256, 3), np.uint8), masks)
    (question,) = questions(small, PLAIN)
    assert 0 < question.track.sum() < LEAST_MASK_QUERIES
    ones = np.ones((len(question.track), 8), np.float32)
    meta = {"model": {"weights": None}}
    tracks = Tracks(
        np.repeat(question.queries[:, None, 1:], 8, axis=1),
        ones,
        ones,
        question.queries,
        np.arange(8),
        small.size,
        meta=meta,
    )
    found = score_clip(small, "still", PLAIN, [question], [tracks])
    assert all(np.isnan(value) for value in found.scores.scores.values())


def test_trajectories_get_the_scores_of_dynamic_replica() -> None:
    clip, protocol = sliding_clip(), PROTOCOLS["cotracker3-dynamic-replica"]
    found = scored(clip, protocol, off_px=1.0).scores
    assert found.kind == "trajectories"
    (question,) = questions(clip, protocol)
    tracks = answer(question, clip, protocol, 1.0)
    expected = dynamic_replica(
        protocol.measured(tracks.xy, SIZE), protocol.measured(clip.xy, SIZE), visible=clip.visible
    )
    assert found.scores == expected
    assert found.scores["delta_occluded"] == pytest.approx(60, abs=1e-3)  # 255 / 95 = 2.68 px


def test_trajectories_must_be_annotated_in_all_frames() -> None:
    clip = sliding_clip("room")
    clip.valid[0, 3] = False
    with pytest.raises(DatasetError, match="room has frames in which the annotation of a track is not valid"):
        scored(clip, PROTOCOLS["cotracker3-dynamic-replica"])


def test_profiles_look_at_visible_points_after_the_query() -> None:
    found = scored(sliding_clip(), off_px=1.0).profiles
    since = found["since_query"]
    # frames 1..7 of two points; the third starts in 2, is hidden in 4 and 5: frames 1, 4 and 5 after its query
    assert since.points.tolist() == [2 + 1, 2, 2 * 2 + 1, 2 * 3 + 1, 0, 0, 0, 0, 0, 0]
    assert since.points.sum() == 7 + 7 + 3
    np.testing.assert_allclose(since.delta_avg[:4], 60)
    np.testing.assert_allclose(since.error_px[:4], 256 / 96, atol=1e-3)
    back = found["since_reappearance"]
    assert back.points.tolist() == [1, 1, 0, 0, 0, 0, 0]  # frames 6 and 7 of the third point
    # a step is (2 * 256 / 96, -1 * 256 / 64) = (5.33, -4), 6.67 px long
    assert found["displacement"].points[:3].tolist() == [0, 0, 0]
    assert found["displacement"].points[3] == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_position_that_is_not_a_number_is_wrong_and_stops_nothing(value: float) -> None:
    clip = sliding_clip()
    (question,) = questions(clip, PLAIN)
    tracks = answer(question, clip, PLAIN)
    tracks.xy[:] = value
    found = score_clip(clip, "broken", PLAIN, [question], [tracks])
    assert found.scores.scores["aj"] == found.scores.scores["delta_avg"] == 0
    assert found.profiles["since_query"].delta_avg[0] == 0
    assert found.reliability["confidence"].observed.sum() == 0
    summary = results(found)
    assert summary.find("broken", ALL, "points", "delta_16").value == 0
    assert '"format"' in summary.to_json()


def test_confidence_is_measured_in_pixels_as_the_network_sees_them() -> None:
    near = scored(sliding_clip(), off_px=8.9).reliability["confidence"]  # of 128 / 96: 11.9 px
    far = scored(sliding_clip(), off_px=9.1).reliability["confidence"]  # 12.1 px
    assert near.observed.sum() == near.points.sum() == 17
    assert far.observed.sum() == 0
    stricter = scored(sliding_clip(), off_px=8.9, confidence_px=11).reliability["confidence"]
    assert stricter.observed.sum() == 0
    assert "confidence" not in scored(sliding_clip(), confidence_px=None).reliability
    assert near.calibration_error == pytest.approx(10, abs=1e-3)  # said 0.9, was always so


def test_visibility_is_compared_in_all_counted_frames() -> None:
    found = scored(sliding_clip()).reliability["visibility"]
    assert found.points.sum() == 7 + 7 + 5
    assert found.calibration_error == 0


# ---- means


def results(*clips: ClipScore) -> Results:
    return summarise(clips, {}, dataset="made")


def named(name: str, off_px: float, model: str = "oracle") -> ClipScore:
    return scored(sliding_clip(name), off_px=off_px, model=model)


def test_clips_count_the_same_and_so_do_groups() -> None:
    found = results(named("a/one", 0), named("b/one", 1), named("b/two", 1), named("b/three", 1))
    # delta_avg 100 in a, 60 in b
    assert found.find("oracle", ALL, "points", "delta_avg").value == pytest.approx(70)
    assert found.find("oracle", GROUPS, "points", "delta_avg").value == pytest.approx(80)
    assert found.find("oracle", "b", "points", "delta_avg").value == pytest.approx(60)
    assert found.groups("points") == [ALL, GROUPS, "a", "b"]
    row = found.find("oracle", ALL, "points", "delta_avg")
    assert (row.videos, row.weights, row.query_mode, row.unit) == (4, "abc", "first", "%")
    assert row.low < row.value < row.high


def test_joints_and_masks_are_in_no_mean_of_points() -> None:
    with_joints = results(named("a/one", 1), named("b/one", 1), scored(joint_clip()))
    without = results(named("a/one", 1), named("b/one", 1))
    assert [row for row in with_joints.rows if row.kind == "points"] == without.rows
    assert with_joints.groups("joints") == ["joints"]
    assert with_joints.find("oracle", "joints", "joints", "badja").value == 100


def test_clips_without_a_group_are_in_the_whole_alone() -> None:
    assert results(named("one", 0), named("two", 1)).groups("points") == [ALL]


def test_a_clip_without_a_value_is_named_and_not_in_the_mean() -> None:
    hidden = sliding_clip("a/hidden")
    hidden.visible[:] = False
    hidden.visible[:, -1] = True  # queried in the last frame: nothing is left to count
    found = results(named("a/one", 1), scored(hidden))
    row = found.find("oracle", ALL, "points", "aj")
    assert row.missing == ["a/hidden"]
    assert row.videos == 1
    assert row.value == pytest.approx(results(named("a/one", 1)).find("oracle", ALL, "points", "aj").value)


def test_reappearances_are_pooled_as_published() -> None:
    clips = [sliding_clip("a/one"), sliding_clip("a/two")]
    clips[1].visible[0, 2:4] = False
    found = results(scored(clips[0], off_px=1), scored(clips[1], off_px=4))
    pooled = []
    for clip, off_px in zip(clips, (1, 4), strict=True):
        after = np.arange(8) > clip.visible.argmax(axis=1)[:, None]
        moved = clip.xy + np.float32([off_px, 0])
        pooled.append(
            reappearances(
                PLAIN.measured(moved, SIZE),
                PLAIN.measured(clip.xy, SIZE),
                predicted_visible=clip.visible,
                visible=clip.visible & after,
                valid=after,
            )
        )
    expected = aj_rd(pooled)
    for name in ("aj_rd", "aj_rd_hidden_1"):
        assert found.find("oracle", ALL, "points", name).value == pytest.approx(expected[name])
    assert found.find("oracle", ALL, "points", "aj_rd").videos == 2
    apart = results(named("a/one", 1), named("b/one", 1))
    assert apart.find("oracle", GROUPS, "points", "aj_rd") is None  # pooled over all clips, or over those of a group
    assert apart.find("oracle", "b", "points", "aj_rd").videos == 1
    assert found.find("oracle", ALL, "points", "aj_rd_hidden_4") is None  # no point was hidden that long


def test_differences_are_taken_clip_by_clip() -> None:
    clips = ("a/one", "a/two", "a/three")
    good = [named(name, off, "good") for name, off in zip(clips, (0, 0, 1), strict=True)]
    poor = [named(name, off, "poor") for name, off in zip(clips, (1, 1, 1), strict=True)]
    found = results(*good, *poor)
    (difference,) = [d for d in found.differences if (d.group, d.metric) == (ALL, "delta_avg")]
    assert (difference.model, difference.versus) == ("good", "poor")
    assert difference.value == pytest.approx((40 + 40 + 0) / 3)
    assert (difference.wins, difference.videos) == (2, 3)
    assert difference.low == pytest.approx(0)
    assert difference.high == pytest.approx(40)


def test_curves_and_calibration_are_over_all_clips_with_points() -> None:
    found = results(named("a/one", 0), named("b/one", 1), scored(joint_clip()))
    (curve,) = [c for c in found.curves if c.against == "since_query"]
    assert curve.points[:2] == [6, 4]
    assert curve.videos[:5] == [2, 2, 2, 2, 0]
    np.testing.assert_allclose(curve.delta_avg[:4], 80)
    assert np.isnan(curve.delta_avg[4])
    assert [c.of for c in found.calibration] == ["visibility", "confidence"]


# ---- from the store


def test_scores_come_from_what_is_kept_without_a_model(tmp_path: Path) -> None:
    store, data = PredictionStore(tmp_path), dataset(sliding_clip("a/one"), joint_clip(), masked_clip())
    predict(data, ["lucas-kanade", "static"], PLAIN, store)
    found = score(data, ["lucas-kanade", "static"], PLAIN, store)
    assert [(c.scores.model, c.scores.kind) for c in found] == [
        ("lucas-kanade", "points"),
        ("static", "points"),
        ("lucas-kanade", "joints"),
        ("static", "joints"),
        ("lucas-kanade", "masks"),
        ("static", "masks"),
    ]
    assert found[0].scores.scores["delta_avg"] > found[1].scores.scores["delta_avg"]


def test_a_clip_that_was_not_tracked_is_missed(tmp_path: Path) -> None:
    store, clip = PredictionStore(tmp_path), sliding_clip("a/one")
    predict(dataset(clip), ["static"], PLAIN, store)
    with pytest.raises(FormatError, match="static has not tracked a/two yet"):
        score(dataset(clip, sliding_clip("a/two")), ["static"], PLAIN, store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"model": "static", "weights": "other"}}, r"model\.weights = other, but this evaluation has None"),
        ({"pointloom": "0.0.1"}, r"pointloom = 0\.0\.1, but this evaluation has"),
    ],
    ids=["weights", "versions of the package"],
)
def test_predictions_by_two_of_a_kind_are_not_mixed(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    store, clips = PredictionStore(tmp_path), (sliding_clip("a/one"), sliding_clip("a/two"))
    predict(dataset(*clips), ["static"], PLAIN, store)
    path = store.path("static", "a/two", "first")
    kept = Tracks.load(path)
    replace(kept, meta={**kept.meta, **change}).save(path)
    with pytest.raises(FormatError, match=message):
        score(dataset(*clips), ["static"], PLAIN, store)


def test_scores_by_another_protocol_than_that_of_the_predictions_are_refused(tmp_path: Path) -> None:
    store, clip = PredictionStore(tmp_path), sliding_clip("a/one")
    predict(dataset(clip), ["static"], PLAIN, store)
    with pytest.raises(FormatError, match="protocol"):
        score(dataset(clip), ["static"], PROTOCOLS["tapvid-first"], store)
