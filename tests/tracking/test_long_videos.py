"""Memory does not grow with the length of a video: frames are read as they are needed and forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import ALONE, small_model

from pointloom.evaluation.bench import Case, case_queries, in_new_process, peak_memory, write_case_video
from pointloom.queries import Queries
from pointloom.tracking.tracker import Tracker
from pointloom.video import open_video

SIZE = (320, 240)  # 0.23 MB a frame: kept, the frames of the longer video would more than double the process


def peak_of_tracking(path: Path, case: Case) -> int:
    with open_video(path) as video:
        Tracker(small_model(ALONE), device="cpu").track(video, Queries.points(case_queries(case)))
    peak = peak_memory()
    assert peak is not None
    return peak


def test_ten_times_as_many_frames_need_hardly_more_memory(tmp_path: Path) -> None:
    if peak_memory() is None:
        pytest.fail("the system does not tell how much memory a process uses")
    peaks = []
    for frames in (200, 2000):
        case = Case(points=20, frames=frames, size=SIZE)
        path = tmp_path / f"{frames}.mp4"
        write_case_video(path, case)
        peaks.append(in_new_process(peak_of_tracking, path, case))
    assert peaks[1] < 1.1 * peaks[0], f"{peaks[1] / 1e6:.0f} MB after {peaks[0] / 1e6:.0f} MB"
