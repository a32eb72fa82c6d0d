"""Every measure against frozen numbers of its reference, against numbers worked out by hand, and against itself.

The files in `tests/golden/metrics` were made with the published functions. Each listed way of getting a measure wrong
is also carried out here, to show that the golden numbers would notice it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pointloom import geometry
from pointloom.errors import OptionError
from pointloom.evaluation import metrics
from pointloom.evaluation.metrics import (
    HIDDEN_FRAMES,
    THRESHOLDS_PX,
    Reappearances,
    aj_rd,
    badja,
    dynamic_replica,
    endpoint_errors,
    evaluated_frames,
    mask_agreement,
    mask_queries,
    reappearances,
    sample_queries,
    tapvid,
    tapvid_per_track,
    to_evaluation,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"

TAPVID_CASES = sorted(p.stem for p in GOLDEN.glob("tapvid_*.npz") if p.stem != "tapvid_scaling")
REPLICA_CASES = sorted(p.stem for p in GOLDEN.glob("dr_*.npz"))
REDETECTION_CASES = sorted(p.stem for p in GOLDEN.glob("ajrd_*.npz"))

# counts are integers and each score is one division; 100 of our percent are 1 there
TAPVID_TOLERANCE = 1e-10
# the reference sums in float32
REPLICA_TOLERANCE = 1e-4
REDETECTION_TOLERANCE = 1e-4

TAPVID_NAMES = {
    "oa": "occlusion_accuracy",
    "aj": "average_jaccard",
    "delta_avg": "average_pts_within_thresh",
    **{f"delta_{d}": f"pts_within_{d}" for d in THRESHOLDS_PX},
    **{f"jaccard_{d}": f"jaccard_{d}" for d in THRESHOLDS_PX},
}


def load(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{case}.npz") as file:
        return dict(file)


def tapvid_videos(golden: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The videos of a golden file as arguments of `tapvid`."""
    frames, mode = golden["gt_tracks"].shape[2], str(golden["query_mode"])
    for b in range(len(golden["gt_tracks"])):
        yield {
            "predicted": golden["pred_tracks"][b],
            "truth": golden["gt_tracks"][b],
            "predicted_visible": ~golden["pred_occluded"][b],
            "visible": ~golden["gt_occluded"][b],
            "evaluated": evaluated_frames(golden["query_points"][b, :, 0], frames, mode=mode),
        }


def replica_video(golden: dict[str, np.ndarray], rule: str = "aligned") -> dict[str, np.ndarray]:
    size = int(golden["width"]), int(golden["height"])
    predicted, truth = (
        to_evaluation(golden[key].swapaxes(0, 1), size, rule=rule) for key in ("pred_tracks", "gt_tracks")
    )
    return {"predicted": predicted, "truth": truth, "visible": golden["visibility"].T}


def redetection_videos(golden: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for b in range(len(golden["gt_tracks"])):
        yield {
            "predicted": golden["pred_tracks"][b].swapaxes(0, 1),
            "truth": golden["gt_tracks"][b].swapaxes(0, 1),
            "predicted_visible": golden["pred_visible"][b].T,
            "visible": golden["gt_visible"][b].T,
        }


# --- golden -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", TAPVID_CASES)
def test_tapvid_scores_equal_the_reference(case):
    golden = load(case)
    for b, video in enumerate(tapvid_videos(golden)):
        scores, per_track = tapvid(**video), tapvid_per_track(**video)
        assert scores.keys() == per_track.keys() == TAPVID_NAMES.keys()
        for ours, theirs in TAPVID_NAMES.items():
            expected, expected_per_track = golden[f"video_{theirs}"][b], golden[f"track_{theirs}"][b]
            np.testing.assert_allclose(scores[ours], 100 * expected, rtol=0, atol=TAPVID_TOLERANCE, err_msg=ours)
            np.testing.assert_allclose(per_track[ours], 100 * expected_per_track, rtol=0, atol=TAPVID_TOLERANCE)


@pytest.mark.parametrize(("rule", "name"), [("area", "raster"), ("aligned", "corner")])
def test_positions_reach_the_evaluation_frame_by_both_rules(rule, name):
    golden = load("tapvid_scaling")
    size = width, height = int(golden["width"]), int(golden["height"])
    seen = ~golden["occluded"].all(axis=1)
    # our pixels count from the centre of the first pixel, stored raster positions from its corner
    offset = 0.5 if rule == "area" else 0.0
    sides = np.array([width, height]) if rule == "area" else np.array([width - 1, height - 1])
    truth = to_evaluation(golden["points_normalized"][seen] * sides - offset, size, rule=rule)
    predicted = to_evaluation(golden["pred_pixels"][seen] - offset, size, rule=rule)
    np.testing.assert_allclose(truth + offset, golden[f"gt_tracks_{name}"][0], atol=1e-9)
    np.testing.assert_allclose(predicted + offset, golden[f"pred_tracks_{name}"][0], atol=1e-9)

    visible = ~golden["occluded"][seen]
    queries = sample_queries(truth, visible, mode="first").queries
    expected = golden[f"query_points_{name}"][0][:, [0, 2, 1]] - [0, offset, offset]
    np.testing.assert_allclose(queries, expected, atol=1e-9)
    scores = tapvid(
        predicted,
        truth,
        predicted_visible=~golden["pred_occluded_all"][seen],
        visible=visible,
        evaluated=evaluated_frames(queries[:, 0], visible.shape[1], mode="first"),
    )
    for ours, theirs in TAPVID_NAMES.items():
        expected = 100 * golden[f"{name}_{theirs}"][0]
        np.testing.assert_allclose(scores[ours], expected, rtol=0, atol=TAPVID_TOLERANCE, err_msg=ours)


@pytest.mark.parametrize("mode", ["first", "strided"])
def test_queries_are_drawn_as_in_the_reference(mode):
    golden = load("query_sampling")
    xy, visible = golden["target_points"], ~golden["occluded"]
    sampled = sample_queries(xy, visible, mode=mode)
    np.testing.assert_array_equal(sampled.queries, golden[f"{mode}_query_points"][0][:, [0, 2, 1]])  # (t, y, x) there
    np.testing.assert_array_equal(xy[sampled.track], golden[f"{mode}_target_points"][0])
    np.testing.assert_array_equal(visible[sampled.track], ~golden[f"{mode}_occluded"][0])
    if mode == "strided":
        np.testing.assert_array_equal(sampled.track, golden["strided_trackgroup"][0])


@pytest.mark.parametrize("case", REPLICA_CASES)
def test_dynamic_replica_scores_equal_the_reference(case):
    golden = load(case)
    scores = dynamic_replica(**replica_video(golden))
    names = {"accuracy_vis": "delta_visible", "accuracy_occ": "delta_occluded", "accuracy": "delta_all"}
    for theirs, ours in names.items():
        for suffix in ("", *(f"_{d}" for d in THRESHOLDS_PX)):
            assert scores[ours + suffix] == pytest.approx(golden[theirs + suffix], abs=REPLICA_TOLERANCE)
    assert scores["survival"] == pytest.approx(golden["survival"], abs=REPLICA_TOLERANCE)


@pytest.mark.parametrize("case", REDETECTION_CASES)
def test_redetection_scores_equal_the_reference(case):
    golden = load(case)
    videos = [reappearances(**video) for video in redetection_videos(golden)]
    index = [np.column_stack([np.full_like(v.point, b), v.frame, v.point]) for b, v in enumerate(videos)]
    np.testing.assert_array_equal(np.concatenate(index), golden["event_index"])
    np.testing.assert_array_equal(np.concatenate([v.hidden for v in videos]), golden["event_duration"])
    jaccard = np.concatenate([v.jaccard for v in videos])
    np.testing.assert_allclose(jaccard, 100 * golden["event_jaccard"], rtol=0, atol=REDETECTION_TOLERANCE)

    scores = aj_rd(videos)
    expected = {"aj_rd": golden["AJ_RD"]}
    for frames in HIDDEN_FRAMES:
        expected[f"aj_rd_hidden_{frames}"] = golden[f"AJ_RD_dmin{frames}"]
        for d in THRESHOLDS_PX:
            expected[f"aj_rd_hidden_{frames}_within_{d}"] = golden[f"AJ_RD_D{d}_dmin{frames}"]
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], 100 * value, rtol=0, atol=REDETECTION_TOLERANCE, err_msg=name)


@pytest.mark.parametrize("case", ["tapvid_random_first", "tapvid_random_strided", "tapvid_no_visible_points"])
def test_endpoint_errors_equal_their_definition(case):
    golden, expected = load(case), load("epe_project_definition")
    for b, video in enumerate(tapvid_videos(golden)):
        del video["predicted_visible"]
        for name, value in endpoint_errors(**video).items():
            np.testing.assert_allclose(value, expected[f"{case}_{name}"][b], rtol=0, atol=1e-9, err_msg=name)


# --- what the golden numbers notice -----------------------------------------------------------------------------------
#
# Each wrong variant is applied on purpose. The expected change is what the wrong variant was measured to do, in percent
# points, rounded as it was noted; a change of zero means that this score cannot tell.


def near_enough_when_equal(video: dict[str, np.ndarray], monkeypatch) -> dict[str, float]:
    monkeypatch.setattr(metrics, "THRESHOLDS_PX", tuple(np.nextafter(d, np.inf) for d in THRESHOLDS_PX))
    return tapvid(**video)


def query_frame_counted(video: dict[str, np.ndarray], golden: dict[str, np.ndarray], b: int) -> dict[str, float]:
    start = np.round(golden["query_points"][b, :, :1])
    video["evaluated"] |= np.arange(video["evaluated"].shape[1]) == start
    return tapvid(**video)


def other_mode(video: dict[str, np.ndarray], golden: dict[str, np.ndarray], b: int) -> dict[str, float]:
    mode = {"first": "strided", "strided": "first"}[str(golden["query_mode"])]
    video["evaluated"] = evaluated_frames(golden["query_points"][b, :, 0], video["evaluated"].shape[1], mode=mode)
    return tapvid(**video)


def mean_over_tracks(video: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.nanmean(values)) for name, values in tapvid_per_track(**video).items()}


@pytest.mark.parametrize(
    ("variant", "case", "changes"),
    [
        ("<= instead of <", "tapvid_ties", {"aj": 9.5, "delta_avg": 12.5, "oa": 0}),
        ("query frame counted", "tapvid_late_fractional_first", {"aj": 1.1, "delta_avg": 0.07, "oa": 1.9}),
        ("the other query mode", "tapvid_random_strided", {"aj": 2.1, "delta_avg": 2.6, "oa": 2.2}),
        ("mean over tracks", "tapvid_random_strided", {"aj": 7.5, "delta_avg": 1.4, "oa": 0}),
    ],
)
def test_a_wrong_tapvid_score_is_noticed(variant, case, changes, monkeypatch):
    golden = load(case)
    measured = dict.fromkeys(changes, 0.0)
    for b, video in enumerate(tapvid_videos(golden)):
        wrong = {
            "<= instead of <": lambda v: near_enough_when_equal(v, monkeypatch),
            "query frame counted": lambda v, b=b: query_frame_counted(v, golden, b),
            "the other query mode": lambda v, b=b: other_mode(v, golden, b),
            "mean over tracks": mean_over_tracks,
        }[variant](video)
        for name in changes:
            change = abs(wrong[name] - 100 * golden[f"video_{TAPVID_NAMES[name]}"][b])
            measured[name] = max(measured[name], change)
    assert measured == pytest.approx(changes, abs=0.051, rel=0)


@pytest.mark.parametrize(
    ("predicted_rule", "changes"),
    [
        pytest.param("corner", {"aj": 0.44}, id="truth by one rule, prediction by the other"),
        pytest.param("raster", {"aj": 0.23, "delta_avg": 0.13, "oa": 0}, id="both by the wrong rule"),
    ],
)
def test_a_wrong_scaling_is_noticed(predicted_rule, changes):
    golden = load("tapvid_scaling")
    seen = ~golden["occluded"].all(axis=1)
    visible = ~golden["occluded"][seen]
    scores = tapvid(
        golden[f"pred_tracks_{predicted_rule}"][0],
        golden["gt_tracks_raster"][0],
        predicted_visible=~golden["pred_occluded_all"][seen],
        visible=visible,
        evaluated=evaluated_frames(visible.argmax(axis=1), visible.shape[1], mode="first"),
    )
    measured = {name: abs(scores[name] - 100 * golden[f"corner_{TAPVID_NAMES[name]}"][0]) for name in changes}
    assert measured == pytest.approx(changes, abs=0.0051, rel=0)


def replica_variant(variant: str, golden: dict[str, np.ndarray], monkeypatch) -> dict[str, float]:
    video = replica_video(golden)
    distance = np.linalg.norm(video["predicted"] - video["truth"], axis=-1)
    seen_lost = (distance > metrics.LOST_PX) & video["visible"]
    if variant == "scaled by W / 256":
        return dynamic_replica(**replica_video(golden, "area"))
    if variant == "<= thresholds":
        monkeypatch.setattr(metrics, "THRESHOLDS_PX", tuple(d * (1 + 1e-6) for d in THRESHOLDS_PX))
        return dynamic_replica(**video)
    if variant == "counted from frame 0":
        groups = {"visible": video["visible"], "occluded": ~video["visible"], "all": np.ones_like(video["visible"])}
        shares = {
            group: [100 * (counted & (distance < d)).sum() / (1e-6 + counted.sum()) for d in THRESHOLDS_PX]
            for group, counted in groups.items()
        }
        return {**dynamic_replica(**video), **{f"delta_{group}": float(np.mean(s)) for group, s in shares.items()}}
    survival = {
        "lost while hidden, too": lambda: ~np.logical_or.accumulate(distance > metrics.LOST_PX, axis=1),
        "alive at the end": lambda: ~seen_lost.any(axis=1),
        "lost at exactly 50 px": lambda: ~np.logical_or.accumulate((distance >= 50) & video["visible"], axis=1),
    }[variant]()
    return {**dynamic_replica(**video), "survival": float(100 * survival.mean())}


@pytest.mark.parametrize(
    ("variant", "case", "changes"),  # of visible, occluded, all, survival
    [
        ("scaled by W / 256", "dr_random", (-0.12, -0.20, -0.14, 0)),
        ("counted from frame 0", "dr_late_and_never_visible", (-0.23, 4.7, 1.6, 0)),
        ("lost while hidden, too", "dr_random", (0, 0, 0, -3.4)),
        ("alive at the end", "dr_random", (0, 0, 0, -5.7)),
        ("lost at exactly 50 px", "dr_ties_survival", (0, 0, 0, -16.7)),
        ("<= thresholds", "dr_ties_survival", (3.2, 2.6, 3.0, 0)),
    ],
)
def test_a_wrong_dynamic_replica_score_is_noticed(variant, case, changes, monkeypatch):
    golden = load(case)
    wrong = replica_variant(variant, golden, monkeypatch)
    measured = [
        wrong["delta_visible"] - golden["accuracy_vis"],
        wrong["delta_occluded"] - golden["accuracy_occ"],
        wrong["delta_all"] - golden["accuracy"],
        wrong["survival"] - golden["survival"],
    ]
    assert measured == pytest.approx(changes, abs=0.051, rel=0)


def slow_reappearances(video: dict[str, np.ndarray], rule: str) -> Reappearances:
    """The definition spelled out track by track; `rule` says which re-appearances of a track are kept."""
    visible, T = video["visible"], video["visible"].shape[1]
    kept = []
    for n in range(len(visible)):
        earlier: list[int] = []
        for t in range(1, T):
            if visible[n, t] and not visible[n, t - 1]:
                seen_before = np.flatnonzero(visible[n, :t])
                hidden = t - 1 - (seen_before[-1] if len(seen_before) else -1)
                record = {
                    ">": all(hidden > e for e in earlier),
                    ">=": all(hidden >= e for e in earlier),
                    "all": True,
                }[rule]
                earlier.append(hidden)
                if record:
                    kept.append((n, t, hidden, segment_jaccard(video, n, t)))
    kept.sort(key=lambda event: (event[1], event[0]))
    point, frame, hidden, jaccard = zip(*kept, strict=True)
    return Reappearances(np.array(point), np.array(frame), np.array(hidden), np.array(jaccard))


def segment_jaccard(video: dict[str, np.ndarray], n: int, t: int) -> list[float]:
    visible, claimed = video["visible"][n, t:], video["predicted_visible"][n, t:]
    distance = np.linalg.norm(video["predicted"][n, t:] - video["truth"][n, t:], axis=-1)
    result = []
    for d in THRESHOLDS_PX:
        hits = sum(v and c and e <= d for v, c, e in zip(visible, claimed, distance, strict=True))
        result.append(100 * hits / (visible.sum() + claimed.sum() - hits))
    return result


@pytest.mark.parametrize(
    ("variant", "case", "change"),
    [
        ("strict <", "ajrd_structured", -11.9),
        ("all", "ajrd_structured", -8.5),
        ("all", "ajrd_long", 3.9),
        (">=", "ajrd_structured", -9.4),
        ("exclusive classes", "ajrd_structured", -4.6),
        (">", "ajrd_structured", 0),
        (">", "ajrd_long", 0),
    ],
)
def test_a_wrong_redetection_score_is_noticed(variant, case, change, monkeypatch):
    golden = load(case)
    videos = list(redetection_videos(golden))
    if variant == "strict <":
        monkeypatch.setattr(metrics, "THRESHOLDS_PX", tuple(d * (1 - 1e-6) for d in THRESHOLDS_PX))
        wrong = aj_rd([reappearances(**video) for video in videos])["aj_rd"]
    elif variant == "exclusive classes":
        found = reappearances(**videos[0])
        classes = [
            found.jaccard[(found.hidden >= low) & (found.hidden < high)]
            for low, high in zip(HIDDEN_FRAMES, (*HIDDEN_FRAMES[1:], np.inf), strict=True)
        ]
        wrong = np.mean([jaccard.mean() for jaccard in classes if len(jaccard)])
    else:
        wrong = aj_rd([slow_reappearances(video, variant) for video in videos])["aj_rd"]
    assert wrong - 100 * golden["AJ_RD"] == pytest.approx(change, abs=0.051, rel=0)


# --- conventions and cases worked out by hand -------------------------------------------------------------------------


def test_convention_half_pixels_of_the_evaluation_frame():
    # 512 x 128 -> 256 x 256. Centre of the first pixel, 0 -> (0 + 0.5) / 2 - 0.5 = -0.25 and (0 + 0.5) * 2 - 0.5 = 0.5
    np.testing.assert_allclose(to_evaluation(np.zeros((1, 2)), (512, 128)), [[-0.25, 0.5]])
    # with the centres of the corner pixels held: 0 -> 0 and 511 -> 255, 127 -> 255
    corners = np.array([[0.0, 0.0], [511.0, 127.0]])
    np.testing.assert_allclose(to_evaluation(corners, (512, 128), rule="aligned"), [[0, 0], [255, 255]])


def test_convention_half_frames_are_rounded_to_even():
    # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
    first = evaluated_frames(np.array([0.5, 1.5, 2.5]), 4, mode="first")
    np.testing.assert_array_equal(first, [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1]])


def test_first_counts_later_frames_and_strided_all_but_the_query_frame():
    query_frame = np.array([0, 2, 3])
    first = evaluated_frames(query_frame, 4, mode="first")
    strided = evaluated_frames(query_frame, 4, mode="strided")
    np.testing.assert_array_equal(first, [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(strided, [[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])


def test_frames_that_cannot_be_trusted_do_not_count():
    valid = np.array([[True, False, True, True]])
    evaluated = evaluated_frames(np.array([0]), 4, mode="first", valid=valid)
    np.testing.assert_array_equal(evaluated, [[0, 0, 1, 1]])


def test_a_visible_point_said_visible_too_far_away_counts_twice():
    # four frames after the query: near, 3 px off, hidden but said visible, visible but said hidden (near)
    truth = np.zeros((1, 5, 2))
    predicted = np.array([[[0, 0], [0, 0], [3, 0], [0, 0], [0, 0]]], float)
    scores = tapvid(
        predicted,
        truth,
        predicted_visible=np.array([[1, 1, 1, 1, 0]], bool),
        visible=np.array([[1, 1, 1, 0, 1]], bool),
        evaluated=evaluated_frames(np.array([0]), 5, mode="first"),
    )
    assert scores["oa"] == pytest.approx(100 * 2 / 4)
    assert scores["delta_2"] == pytest.approx(100 * 2 / 3)
    assert scores["delta_4"] == pytest.approx(100)
    # below 3 px: TP 1, visible 3, FP 2 (too far, hidden); above: TP 2, visible 3, FP 1
    assert scores["jaccard_2"] == pytest.approx(100 * 1 / 5)
    assert scores["jaccard_4"] == pytest.approx(100 * 2 / 4)
    assert scores["aj"] == pytest.approx((20 + 20 + 50 + 50 + 50) / 5)


def test_nothing_to_count_gives_nan_and_is_not_replaced():
    nothing = np.zeros((0, 3), bool)
    positions = np.zeros((0, 3, 2))
    scores = tapvid(positions, positions, predicted_visible=nothing, visible=nothing, evaluated=nothing)
    assert all(np.isnan(value) for value in scores.values())
    errors = endpoint_errors(positions, positions, visible=nothing, evaluated=nothing)
    assert all(np.isnan(value) for value in errors.values())
    assert np.isnan(aj_rd([])["aj_rd"])
    assert np.isnan(dynamic_replica(positions, positions, visible=nothing)["survival"])
    assert dynamic_replica(positions, positions, visible=nothing)["delta_all"] == 0
    measured = badja(positions, positions, visible=nothing, area=np.ones(3), evaluated=nothing, size=(8, 8))
    assert np.isnan(measured["badja"])


def test_no_annotated_track_gives_no_query():
    for mode in ("first", "strided"):
        sampled = sample_queries(np.zeros((0, 4, 2)), np.zeros((0, 4), bool), mode=mode)
        assert sampled.queries.shape == (0, 3)
        hidden = sample_queries(np.zeros((2, 4, 2)), np.zeros((2, 4), bool), mode=mode)
        assert hidden.queries.shape == (0, 3)
        no_frames = sample_queries(np.zeros((2, 0, 2)), np.zeros((2, 0), bool), mode=mode)
        assert no_frames.queries.shape == (0, 3)


def test_positions_that_are_not_numbers_or_huge_are_wrong():
    truth = np.zeros((1, 3, 2), np.float32)
    predicted = np.array([[[0, 0], [np.nan, 0], [3e38, -3e38]]], np.float32)
    everywhere = np.ones((1, 3), bool)
    scores = tapvid(predicted, truth, predicted_visible=everywhere, visible=everywhere, evaluated=everywhere)
    assert scores["delta_16"] == pytest.approx(100 / 3)


def test_a_point_lost_for_one_visible_frame_stays_lost():
    truth = np.zeros((2, 4, 2), np.float32)
    predicted = truth.copy()
    predicted[0, 1, 0] = 51  # visible there: lost in frames 1, 2, 3
    predicted[1, 1, 0] = 51  # hidden there: not lost
    visible = np.array([[1, 1, 1, 1], [1, 0, 1, 1]], bool)
    assert dynamic_replica(predicted, truth, visible=visible)["survival"] == pytest.approx(100 * 5 / 8)


def test_a_frame_that_cannot_be_trusted_ends_a_hidden_stretch():
    visible = np.array([[1, 0, 0, 0, 1, 1]], bool)
    valid = np.ones_like(visible)
    positions = np.zeros((1, 6, 2))
    found = reappearances(positions, positions, predicted_visible=visible, visible=visible, valid=valid)
    assert (found.frame.tolist(), found.hidden.tolist()) == ([4], [3])
    valid[0, 2] = False
    found = reappearances(positions, positions, predicted_visible=visible, visible=visible, valid=valid)
    assert (found.frame.tolist(), found.hidden.tolist()) == ([4], [1])
    valid[0, 3] = False  # nobody knows whether it was hidden just before
    found = reappearances(positions, positions, predicted_visible=visible, visible=visible, valid=valid)
    assert found.frame.size == 0


def test_frames_that_cannot_be_trusted_do_not_enter_the_score_of_a_reappearance():
    visible = np.array([[1, 0, 1, 1, 1]], bool)
    truth = np.zeros((1, 5, 2))
    predicted = truth.copy()
    predicted[0, 3] = 100
    valid = np.array([[1, 1, 1, 0, 1]], bool)
    found = reappearances(predicted, truth, predicted_visible=visible, visible=visible, valid=valid)
    np.testing.assert_allclose(found.jaccard, 100)


def test_a_joint_may_be_off_by_a_fifth_of_the_root_of_the_area():
    # area 100: 2 px allowed, strictly; area 400: 4 px; no area in the last frame
    truth = np.zeros((1, 5, 2))
    predicted = truth.copy()
    predicted[0, :, 0] = [0, 1.99, 2, 3.9, 0]
    area = np.array([100, 100, 100, 400, np.nan])
    visible = np.ones((1, 5), bool)
    evaluated = evaluated_frames(np.array([0]), 5, mode="first")
    # a frame of 1024 x 768 has half of these distances at 512 x 384: all are below 3 px
    scores = badja(predicted, truth, visible=visible, area=area, evaluated=evaluated, size=(1024, 768))
    assert scores["badja"] == pytest.approx(100 * 2 / 3)
    assert scores["badja_3px"] == pytest.approx(100)
    # at 512 x 768 x is not scaled: 3.9 px is too far
    scores = badja(predicted, truth, visible=visible, area=area, evaluated=evaluated, size=(512, 768))
    assert scores["badja_3px"] == pytest.approx(100 * 3 / 4)
    visible[0, 2] = False
    scores = badja(predicted, truth, visible=visible, area=area, evaluated=evaluated, size=(512, 768))
    assert scores["badja"] == pytest.approx(100)


def test_mask_queries_are_cell_centres_of_two_grids_away_from_the_outline():
    mask = np.zeros((256, 256), bool)
    mask[64:128, 32:160] = True  # box of 128 x 64: cells of 8 x 4
    xy, on_object = mask_queries(mask)
    # grid over the frame, cells of 16: centres in raster pixels 8, 24, ...; ours are half a pixel less
    assert xy[0].tolist() == [7.5, 7.5]
    assert not on_object[0]
    # object: cells at raster x 36, 44, ..., 156, y 66, 70, ..., 126. The outline's first outer pixel row is 63, so that
    # row 66 is exactly 3 px away and kept; row 126 is 2 px from row 128 and dropped; column 156 is 4 px from 160
    inner = xy[on_object]
    rows = np.floor(geometry.to_raster(inner[:, 1]))
    columns = np.floor(geometry.to_raster(inner[:, 0]))
    assert rows.min() == 66
    assert rows.max() == 122
    assert (columns.min(), columns.max()) == (36, 156)
    # of the grid over the frame: columns 40, 56, ..., 152 and rows 72, 88, 104, 120
    assert on_object.sum() == 16 * 15 + 8 * 4


def test_mask_queries_measure_the_margin_in_the_evaluation_frame():
    # 512 wide, 64 high: a pixel is half as wide and four times as high there. 3 px are 6 columns, and under one row
    mask = np.zeros((64, 512), bool)
    mask[:, 200:] = True
    column = np.array([205, 204, 206])
    near = metrics._near_outline(mask, column, np.full(3, 30))
    # nearest other column is 199: 6, 5 and 7 columns away, that is 3, 2.5 and 3.5 px
    assert near.tolist() == [False, True, False]
    mask = np.zeros((64, 512), bool)
    mask[32:] = True
    assert not metrics._near_outline(mask, column, np.full(3, 32)).any()


def test_a_mask_without_an_object_gives_background_queries_only():
    xy, on_object = mask_queries(np.zeros((48, 64), bool))
    assert len(xy) == 256
    assert not on_object.any()


def test_mask_agreement_by_hand():
    masks = np.zeros((4, 4, 8), bool)
    masks[:3, :, :4] = True  # the object is the left half, and gone in frame 3
    #                 frame 0, 1, 2, 3
    x = np.array([[1, 1, 6, 1], [6, 6, 6, 6], [6, 2, 9, 6]], float)
    xy = np.stack([x, np.zeros_like(x)], axis=-1)
    on_object = np.array([True, False, False])
    visible = np.array([[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1]], bool)
    scores = mask_agreement(masks, xy, predicted_visible=visible, on_object=on_object)
    # object point: frame 1 right, frame 2 wrong, frame 3 said hidden; the object is seen in frames 1 and 2
    assert scores["a_obj"] == pytest.approx(100 / 2)
    assert scores["s_obj"] == pytest.approx(200 / 3)
    assert scores["y_obj"] == pytest.approx(100 / 2)
    # background: first right in 1 and 3; second on the object in 1, out of the frame in 2, right in 3
    assert scores["a_bg"] == pytest.approx(100 * 3 / 5)
    assert scores["s_bg"] == pytest.approx(100 * 5 / 6)
    assert scores["ma"] == pytest.approx(55)
    assert scores["mf"] == pytest.approx(2 * 55 * 50 / 105)


def test_mask_agreement_of_points_always_hidden_is_zero():
    masks = np.ones((3, 4, 4), bool)
    xy = np.full((2, 3, 2), np.nan)
    scores = mask_agreement(masks, xy, predicted_visible=np.zeros((2, 3), bool), on_object=np.array([True, False]))
    assert scores == dict.fromkeys(scores, 0)


@pytest.mark.parametrize(("x", "right"), [(0.49, 0), (0.5, 100), (1.49, 100), (1.5, 0)])
def test_convention_a_position_belongs_to_the_pixel_whose_centre_is_nearest(x, right):
    masks = np.zeros((2, 1, 4), bool)
    masks[:, 0, 1] = True  # covers x from 0.5 up to, not including, 1.5
    xy = np.array([[[1.0, 0.0], [x, 0.0]]])
    scores = mask_agreement(masks, xy, predicted_visible=np.ones((1, 2), bool), on_object=np.array([True]))
    assert scores["a_obj"] == right
    assert np.isnan(scores["mf"])  # there is no background point


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_arrays_with_frames_first_are_refused():
    positions, flags = np.zeros((5, 3, 2)), np.ones((3, 5), bool)
    with pytest.raises(OptionError, match=r"predicted_visible has shape \(3, 5\).*\(5, 3\).*Points come first"):
        tapvid(positions, positions, predicted_visible=flags, visible=flags, evaluated=flags)
    with pytest.raises(OptionError, match="predicted has shape"):
        endpoint_errors(positions[:1], positions, visible=flags.T, evaluated=flags.T)
    with pytest.raises(OptionError, match="area has shape"):
        badja(positions, positions, visible=flags.T, area=np.ones(5), evaluated=flags.T, size=(8, 8))
    with pytest.raises(OptionError, match="valid has shape"):
        evaluated_frames(np.zeros(3), 5, mode="first", valid=flags.T)


def test_unknown_modes_and_rules_are_refused():
    with pytest.raises(OptionError, match="'first' or 'strided', got 'last'"):
        evaluated_frames(np.zeros(1), 2, mode="last")
    with pytest.raises(OptionError, match="'first' or 'strided', got 'last'"):
        sample_queries(np.zeros((1, 2, 2)), np.ones((1, 2), bool), mode="last")
    with pytest.raises(OptionError, match="'area' or 'aligned', got 'corner'"):
        to_evaluation(np.zeros((1, 2)), (8, 8), rule="corner")


# --- properties -------------------------------------------------------------------------------------------------------


@st.composite
def videos(draw) -> dict[str, np.ndarray]:
    """Random tracks on a grid of quarter pixels, some predictions near, some far; a third is hidden or said hidden."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    N, T = draw(st.integers(1, 5)), draw(st.integers(2, 12))
    truth = random.integers(0, 1024, (N, T, 2)) / 4
    error = random.integers(-8, 9, (N, T, 2)) / 4 * random.choice([0, 1, 8, 32], (N, T, 1))
    valid = random.random((N, T)) < draw(st.sampled_from([0.5, 1.0]))
    return {
        "predicted": truth + error,
        "truth": truth,
        "predicted_visible": random.random((N, T)) < 2 / 3,
        "visible": (random.random((N, T)) < 2 / 3) & valid,
        "valid": valid,
        "evaluated": evaluated_frames(random.integers(0, T, N), T, mode="strided", valid=valid),
    }


def all_scores(video: dict[str, np.ndarray]) -> dict[str, float]:
    positions = {"predicted": video["predicted"], "truth": video["truth"]}
    visible, evaluated, valid = video["visible"], video["evaluated"], video["valid"]
    said = video["predicted_visible"]
    return {
        **tapvid(**positions, predicted_visible=said, visible=visible, evaluated=evaluated),
        **endpoint_errors(**positions, visible=visible, evaluated=evaluated),
        **aj_rd([reappearances(**positions, predicted_visible=said, visible=visible, valid=valid)]),
        **badja(
            **positions, visible=visible, evaluated=evaluated, area=np.full(visible.shape[1], 99.0), size=(256, 256)
        ),
    }


def replica_scores(video: dict[str, np.ndarray]) -> dict[str, float]:
    return dynamic_replica(video["predicted"], video["truth"], visible=video["visible"])


@given(videos())
def test_perfect_tracks_score_100(video):
    assume((video["evaluated"] & video["visible"]).any())
    video |= {"predicted": video["truth"], "predicted_visible": video["visible"]}
    for name, score in all_scores(video).items():
        expected = 0 if name.startswith("epe") else 100
        assert score == pytest.approx(expected) or (name.startswith("aj_rd") and np.isnan(score)), name
    for name, score in replica_scores(video).items():
        assert score == pytest.approx(100) or score == 0, name
    assert replica_scores(video)["survival"] == 100


@given(videos())
def test_a_prediction_that_is_always_hidden_gets_no_jaccard(video):
    assume((video["evaluated"] & video["visible"]).any())
    before = all_scores(video)
    video["predicted_visible"] = np.zeros_like(video["predicted_visible"])
    scores = all_scores(video)
    assert scores["aj"] == 0
    assert scores["delta_avg"] == before["delta_avg"]
    assert np.isnan(scores["aj_rd"]) or scores["aj_rd"] == 0


@given(videos(), st.randoms(use_true_random=False))
def test_the_order_of_points_changes_nothing(video, random):
    order = random.sample(range(len(video["truth"])), len(video["truth"]))
    permuted = {name: array[order] for name, array in video.items()}
    assert all_scores(permuted) == pytest.approx(all_scores(video), nan_ok=True)
    assert replica_scores(permuted) == pytest.approx(replica_scores(video), nan_ok=True)


@given(videos())
def test_what_is_not_valid_can_be_anything(video):
    before = all_scores(video)
    untrusted = ~video["valid"]
    video["truth"] = np.where(untrusted[..., None], -1e6, video["truth"])
    video["predicted_visible"] = video["predicted_visible"] ^ untrusted
    assert all_scores(video) == pytest.approx(before, nan_ok=True)


@given(videos())
def test_a_jaccard_never_exceeds_the_accuracy_and_both_grow_with_the_distance(video):
    scores = all_scores(video)
    assume(not np.isnan(scores["delta_avg"]))
    for d in THRESHOLDS_PX:
        assert 0 <= scores[f"jaccard_{d}"] <= scores[f"delta_{d}"] <= 100
    for near, far in pairwise(THRESHOLDS_PX):
        assert scores[f"delta_{near}"] <= scores[f"delta_{far}"]
        assert scores[f"jaccard_{near}"] <= scores[f"jaccard_{far}"]


@given(videos())
def test_moving_truth_and_prediction_together_changes_nothing(video):
    moved = {**video, "predicted": video["predicted"] + [64, -32], "truth": video["truth"] + [64, -32]}
    assert all_scores(moved) == pytest.approx(all_scores(video), nan_ok=True)


@given(videos())
def test_the_score_of_a_track_is_that_of_a_video_with_this_track_alone(video):
    del video["valid"]
    per_track = tapvid_per_track(**video)
    for n in range(len(video["truth"])):
        alone = tapvid(**{name: array[n : n + 1] for name, array in video.items()})
        assert {name: values[n] for name, values in per_track.items()} == pytest.approx(alone, nan_ok=True)


@given(videos())
def test_every_query_starts_on_a_visible_point_of_its_track(video):
    for mode in ("first", "strided"):
        sampled = sample_queries(video["truth"], video["visible"], mode=mode)
        frame = sampled.queries[:, 0].astype(int)
        assert video["visible"][sampled.track, frame].all()
        np.testing.assert_array_equal(sampled.queries[:, 1:], video["truth"][sampled.track, frame])
