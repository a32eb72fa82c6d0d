"""The clips that come with the repository: all there, attributed, and as their page describes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pointloom.datasets.clips import ClipsFolder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROW = re.compile(r"^\| `(\w+/\w+)` \| (\d+) \| (\d+) x (\d+) \| (\d+) \|.*\| (BSD-\S+) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def rows() -> dict[str, re.Match[str]]:
    page = (BENCHMARKS / "clips" / "README.md").read_text()
    return {row[1]: row for row in ROW.finditer(page)}


def test_every_carried_clip_is_attributed(rows):
    assert set(ClipsFolder(BENCHMARKS / "clips").names) == rows.keys()
    licences = (BENCHMARKS / "clips" / "LICENSES.txt").read_text()
    for name in rows:
        group, _, clip = name.partition("/")
        assert clip in licences
        assert f"{group}/*" in (BENCHMARKS.parent / "NOTICE").read_text()


def test_a_carried_clip_is_as_its_row_says(rows):
    name = "keypoints/flies_b"
    clip = ClipsFolder(BENCHMARKS / "clips")[name]
    frames, width, height, points = (int(number) for number in rows[name].groups()[1:5])
    assert clip.frames.shape == (frames, height, width, 3)
    assert clip.xy.shape == (points, frames, 2)
