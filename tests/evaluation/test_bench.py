"""The benchmark: what is measured, and how numbers are made of it. The clock counts how often somebody looks."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointloom.errors import ModelError, OptionError, PointloomError
from pointloom.evaluation import bench as module
from pointloom.evaluation.bench import (
    BASELINE,
    Case,
    Measurement,
    Repeats,
    Spread,
    bench,
    case_frames,
    case_queries,
    format_table,
    in_new_process,
    measure,
    one_at_a_time,
    peak_memory,
    write_case_video,
)
from pointloom.models import zoo
from pointloom.models.weight_files import save_weights
from pointloom.video import open_video
from tracking.small_models import ALONE, small_model

SMALL = Case(5, 18, (80, 64))


class Ticking:
    """Goes on by one second each time somebody looks."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def here(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, small_model(), {})
    return str(path)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_case_video(path, SMALL)
    return path


# --- cases ------------------------------------------------------------------------------------------------------------


def test_one_thing_is_changed_at_a_time():
    assert one_at_a_time([256, 64], [48, 96], [(640, 360), (320, 180)]) == [
        Case(256, 48, (640, 360)),
        Case(64, 48, (640, 360)),
        Case(256, 96, (640, 360)),
        Case(256, 48, (320, 180)),
    ]
    assert one_at_a_time([256, 256], [48, 48], [(640, 360)]) == [Case(256, 48, (640, 360))]  # no case twice


@pytest.mark.parametrize("change", [{"points": 0}, {"frames": 1}, {"size": (62, 64)}, {"size": (81, 64)}])
def test_a_case_that_cannot_be_tracked_is_refused(change):
    with pytest.raises(OptionError, match="a benchmark needs 1 point, 2 frames and even sides of 64 pixels"):
        replace(SMALL, **change)


@pytest.mark.parametrize("numbers", [(-1, 1, None), (0, 0, None), (0, 1, 0)])
def test_repeats_that_measure_nothing_are_refused(numbers):
    with pytest.raises(OptionError, match="warm-up must be 0 or more, repeats and threads 1 or more"):
        Repeats(*numbers)


def test_the_video_of_a_case_moves_and_is_the_same_each_time():
    first, again = (np.stack(list(case_frames(SMALL))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (18, 64, 80, 3)
    assert first.dtype == np.uint8
    assert all((a != b).any() for a, b in pairwise(first))
    assert first.std() > 20  # there is something to track


def test_the_video_that_is_written_is_that_video(video):
    with open_video(video) as written:
        assert len(written) == 18
        assert written.size == (80, 64)


def test_queries_lie_in_the_first_frame_and_are_the_same_each_time():
    queries = case_queries(SMALL)
    assert queries.shape == (5, 3)
    assert (queries[:, 0] == 0).all()
    assert (queries[:, 1:] >= 0).all()
    assert (queries[:, 1:] <= (79, 63)).all()
    np.testing.assert_array_equal(queries, case_queries(SMALL))


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_spread_is_the_median_and_the_extremes():
    assert Spread.of([5, 1, 2]) == Spread(2, 1, 5)
    assert Spread.of([4, 2]) == Spread(3, 2, 4)


def test_a_ratio_has_the_extremes_that_the_repeats_allow():
    assert Spread(6, 4, 8).relative_to(Spread(2, 1, 4)) == Spread(3, 1, 8)


BASE = Measurement(
    BASELINE, Case(10, 20, (80, 64)), Spread(2, 1, 4), {"decode": 1, "flow": 3}, 200_000_000, 150_000_000
)
MODEL = Measurement(
    "tiny", BASE.case, Spread(5, 4, 10), {"encode": 3, "transformer": 1, "decode": 1}, 500_000_000, 300_000_000
)


def test_a_row_has_rates_ratios_and_shares():
    row = MODEL.row(BASE)
    assert row["frames_per_second"] == {"median": 4, "low": 2, "high": 5}  # 20 frames in 5, 10 and 4 s
    assert row["microseconds_per_frame_and_point"] == 25_000  # 5 s for 200 of them
    assert row["times_baseline"] == {"median": 2.5, "low": 1, "high": 10}
    assert (row["peak_mb"], row["loaded_mb"], row["peak_times_baseline"]) == (500, 300, 2.5)
    assert row["share_of_time"] == {"encode": 0.6, "transformer": 0.2, "decode": 0.2}
    assert (row["points"], row["frames"], row["width"], row["height"]) == (10, 20, 80, 64)


def test_a_system_that_does_not_tell_the_memory_gives_none():
    row = replace(MODEL, peak_bytes=None, loaded_bytes=None).row(BASE)
    assert (row["peak_mb"], row["loaded_mb"], row["peak_times_baseline"]) == (None, None, None)
    assert " ?" in format_table({"rows": [row]})


def test_the_tables_say_speed_memory_and_where_the_time_goes():
    speed, goes = format_table({"rows": [BASE.row(BASE), MODEL.row(BASE)]}).split("\n\n")
    header, baseline, model = speed.splitlines()
    assert header.split("  ")[0] == "model"
    assert "lucas-kanade  10      20      80x64" in baseline
    assert "4.0 (2.0-5.0)" in model
    assert "25000.0" in model
    assert "2.50 (1.00-10.00)" in model
    assert model.split()[-2:] == ["500", "300"]
    assert goes.splitlines()[2].endswith("decode 20 %, encode 60 %, transformer 20 %")  # in the order of the work
    assert goes.splitlines()[1].endswith("decode 25 %, flow 75 %")


# --- measuring --------------------------------------------------------------------------------------------------------


def test_a_model_is_measured_by_stage(video, weights):
    measured = measure(weights, video, SMALL, Repeats(1, 3), "cpu", "float32", Ticking())
    assert measured.case == SMALL
    assert set(measured.stages) == {"decode", "encode", "describe", "correlation", "transformer", "output"}
    assert sum(measured.stages.values()) == measured.seconds.median  # every repeat looks at the clock as often
    assert measured.peak_bytes >= measured.loaded_bytes > 10_000_000


@pytest.mark.parametrize("name", [BASELINE, "dis-flow"])
def test_a_tracker_without_weights_is_measured_by_stage(video, name):
    measured = measure(name, video, SMALL, Repeats(0, 2), "cpu", "float32", Ticking())
    assert measured.stages == {"decode": 1, "flow": 2}  # four looks at the clock: flow, decode, flow again
    assert measured.seconds == Spread(3, 3, 3)


def test_a_model_is_measured_in_the_precision_asked_for(video, weights, monkeypatch):
    asked = []
    tracker = module.Tracker
    monkeypatch.setattr(
        module, "Tracker", lambda *a, **options: asked.append(options["dtype"]) or tracker(*a, **options)
    )
    measure(weights, video, SMALL, Repeats(0, 1), "cpu", "bfloat16", Ticking())
    measure(weights, video, SMALL, Repeats(0, 1), "cpu", "float32", Ticking())
    assert asked == [torch.bfloat16, None]


def test_an_untrained_network_is_measured_as_well(video, monkeypatch):
    monkeypatch.setitem(zoo.UNTRAINED, "small", ALONE)
    measured = measure("small", video, SMALL, Repeats(0, 1), "cpu", "float32", Ticking(), untrained=True)
    assert measured.stages["encode"] > 0
    with pytest.raises(ModelError, match="no model is called 'small'"):
        measure("small", video, SMALL, Repeats(0, 1), "cpu", "float32", Ticking())
    result = bench(["small"], [SMALL], Repeats(0, 1), untrained=True, clock=Ticking(), run=here)
    assert result["run"]["untrained"]


def test_runs_before_the_measured_ones_do_not_count(video, weights):
    """The first run also measures what a frame costs, and so looks at the clock more often."""
    cold = measure(weights, video, SMALL, Repeats(0, 3), "cpu", "float32", Ticking())
    warm = measure(weights, video, SMALL, Repeats(1, 3), "cpu", "float32", Ticking())
    assert cold.seconds.high > cold.seconds.low
    assert warm.seconds == Spread(*[cold.seconds.low] * 3)


def test_threads_are_those_that_were_asked_for(video, monkeypatch):
    asked = []
    monkeypatch.setattr(module.torch, "set_num_threads", lambda n: asked.append(("torch", n)))
    monkeypatch.setattr(module.cv2, "setNumThreads", lambda n: asked.append(("opencv", n)))
    measure(BASELINE, video, SMALL, Repeats(0, 1), "cpu", "float32", Ticking())
    assert asked == []
    measure(BASELINE, video, SMALL, Repeats(0, 1, threads=3), "cpu", "float32", Ticking())
    assert asked == [("torch", 3), ("opencv", 3)]


def test_the_most_memory_is_known_without_the_record_of_linux(monkeypatch):
    known = peak_memory()

    def refuse(self: Path) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert 0.5 * known < peak_memory() < 10 * known


# --- together ---------------------------------------------------------------------------------------------------------


def test_each_case_is_measured_with_the_baseline_first(weights):
    cases = [SMALL, replace(SMALL, points=3)]
    done: list[float] = []
    result = bench([weights], cases, Repeats(0, 1), device="cpu", clock=Ticking(), run=here, progress=done.append)
    rows = result["rows"]
    assert [(row["model"], row["points"]) for row in rows] == [
        (BASELINE, 5),
        (weights, 5),
        (BASELINE, 3),
        (weights, 3),
    ]
    assert [row["times_baseline"]["median"] == 1 for row in rows] == [True, False, True, False]
    assert result["baseline"] == BASELINE
    assert result["format"] == 1
    assert {"pointloom", "torch", "machine", "cores", "device", "warm_up", "measured", "threads"} <= result[
        "run"
    ].keys()
    assert done == [0.25, 0.5, 0.75, 1]


def test_the_baseline_is_not_measured_twice():
    result = bench([BASELINE], [SMALL], Repeats(0, 1), device="cpu", clock=Ticking(), run=here)
    assert [row["model"] for row in result["rows"]] == [BASELINE]


def test_every_measurement_has_its_own_run(monkeypatch, weights):
    """By default that is a new process, so that one measurement leaves no memory to the next."""
    calls = []

    def record(function: Any, *arguments: Any) -> Any:
        calls.append(function.__name__)
        return function(*arguments)

    monkeypatch.setattr(module, "in_new_process", record)
    bench([weights], [SMALL], Repeats(0, 1), device="cpu", clock=Ticking())
    assert calls == ["write_case_video", "measure", "measure"]


def test_a_new_process_is_another_one():
    assert in_new_process(os.getpid) != os.getpid()


def test_a_process_that_dies_is_an_error_of_ours():
    with pytest.raises(PointloomError, match=r"the process that ran _exit\(3,\) ended without a result.*Use fewer"):
        in_new_process(os._exit, 3)
