"""Intervals of means over videos."""

from __future__ import annotations

import numpy as np
import pytest

from pointloom.evaluation import statistics
from pointloom.evaluation.statistics import interval, mean, mean_of_groups


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(50, 10, 400)
    found = mean(values)
    assert found.value == pytest.approx(values.mean())
    standard_error = values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.15)
    assert found.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.15)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).normal(50, 10, 20)
    assert mean(values) == mean(values)
    assert mean(values) != mean(values, seed=1)


def test_groups_count_the_same_however_many_videos_they_have() -> None:
    found = mean_of_groups([np.array([10.0]), np.array([40.0, 50.0, 60.0])])
    assert found.value == 30
    assert 20 < found.low < 30 < found.high < 40  # videos are drawn within their group


def test_one_video_has_no_interval_and_none_has_no_mean() -> None:
    assert mean(np.array([7.0])).value == 7
    assert np.isnan(mean(np.array([7.0])).low)
    assert np.isnan(mean(np.zeros(0)).value)


def test_an_empty_group_is_no_group() -> None:
    assert mean_of_groups([np.zeros(0), np.array([3.0, 5.0])]).value == 4


def test_many_videos_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(50, 10, 50)
    monkeypatch.setattr(statistics, "VALUES_AT_ONCE", 2_000_000)
    whole = mean(values)
    monkeypatch.setattr(statistics, "VALUES_AT_ONCE", 999)
    assert mean(values) == whole


def test_draws_without_a_value_do_not_count() -> None:
    found = interval(1.0, np.array([np.nan, 1.0, 1.0, 1.0]))
    assert (found.low, found.high) == (1, 1)
