"""Classes of errors, and calibration, on arrays worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pointloom.evaluation.profiles import frames_since_reappearance, profile, reliability


def test_a_profile_counts_each_pair_in_its_class() -> None:
    against = np.array([[0, 1, 1, 2, 7]])
    distance = np.array([[0.5, 3.0, 0.5, 100.0, 1.5]])
    said = np.array([[True, True, False, True, False]])
    counted = np.array([[True, True, True, True, False]])
    found = profile(against, (1, 2, 4), distance=distance, said_seen=said, counted=counted)
    # below 1: left out; class 1: distances 3 and 0.5; class 2 to 3: 100; from 4 on: the only pair is not counted
    assert found.points.tolist() == [2, 1, 0]
    # within 1, 2, 4, 8, 16 px: 50, 50, 100, 100, 100
    np.testing.assert_allclose(found.delta_avg, [80, 0, np.nan])
    np.testing.assert_allclose(found.error_px, [1.75, 100, np.nan])
    np.testing.assert_allclose(found.said_seen, [50, 100, np.nan])


def test_reappearances_are_counted_from_the_first_frame_in_which_the_point_is_back() -> None:
    yes, no = True, False
    visible = np.array([[yes, yes, no, no, yes, yes, no, yes]])
    since = frames_since_reappearance(visible, np.ones_like(visible), np.array([0]))
    assert since[0].tolist() == [-1, -1, -1, -1, 0, 1, -1, 0]


def test_being_hidden_before_the_query_is_no_reappearance() -> None:
    visible = np.array([[False, False, True, True]])
    since = frames_since_reappearance(visible, np.ones_like(visible), np.array([2]))
    assert (since == -1).all()


def test_nobody_knows_what_happened_where_the_annotation_is_not_valid() -> None:
    visible = np.array([[True, False, False, True, True]])
    valid = np.array([[True, True, False, True, True]])
    since = frames_since_reappearance(visible, valid, np.array([0]))
    assert (since == -1).all()


def test_reliability_compares_what_was_said_with_what_was() -> None:
    found = reliability(
        np.array([0.05, 0.05, 0.95, 0.95, 1.0, np.nan]), np.array([False, True, True, True, False, True])
    )
    assert found.points.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    np.testing.assert_allclose(found.predicted[[0, 9]], [0.1, 2.9])
    assert found.observed[[0, 9]].tolist() == [1, 2]
    # |0.1 - 1| + |2.9 - 2| over 5 points
    assert found.calibration_error == pytest.approx(100 * 1.8 / 5)
    assert found.brier == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.05**2 + 1) / 5)


def test_reliabilities_of_videos_add_up() -> None:
    rng = np.random.default_rng(0)
    p, happened = rng.random(200), rng.random(200) < 0.5
    both, whole = reliability(p[:80], happened[:80]) + reliability(p[80:], happened[80:]), reliability(p, happened)
    np.testing.assert_array_equal(both.points, whole.points)
    assert both.calibration_error == pytest.approx(whole.calibration_error)
    assert both.brier == pytest.approx(whole.brier)


def test_true_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(100_000)
    assert reliability(p, rng.random(100_000) < p).calibration_error < 1


def test_nothing_has_no_calibration() -> None:
    empty = reliability(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(empty.calibration_error)
    assert np.isnan(empty.brier)
