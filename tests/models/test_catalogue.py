"""The list of models: what it says of each, and what of measurements in the header of weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from installed_packages import installing
from pointloom.errors import FormatError, OptionError, PointloomWarning
from pointloom.evaluation.bench import speed_of
from pointloom.models import zoo
from pointloom.models.catalogue import (
    ModelRow,
    Score,
    Speed,
    catalogue,
    describe,
    format_catalogue,
    measured,
    measured_untrained,
    read_measured,
)
from pointloom.models.weight_files import read_header, save_weights
from pointloom.models.zoo import NOT_STATED, ZooEntry
from tracking.small_models import ALONE, small_model

SCORES = (
    Score("pool:held", "delta_avg", 68.04, "pointloom-1", 32),
    Score("pool:held", "aj", 56.2, "pointloom-1", 32),
    Score("clips:animals", "aj", 23.5, "pointloom-1", 3),
)
SPEED = Speed(12.34, 256, 48, (640, 360), "Linux, 2 cores, cpu, float32")


def listed(path: Path, about: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ModelRow:
    """The row of a model whose weights say something about themselves."""
    save_weights(path, small_model(), about)
    entry = ZooEntry("small", ALONE, "for a test", "Apache-2.0", str(path))
    monkeypatch.setattr(zoo, "ZOO", {"small": entry})
    (row,) = catalogue()
    return row


def test_scores_and_speed_are_read_from_the_header_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = listed(tmp_path / "small.safetensors", measured(SCORES, SPEED), monkeypatch)
    assert (row.scores, row.speed) == (SCORES, SPEED)
    assert format_catalogue([row]).splitlines() == [
        "model  size     modes           says                    licence     companies",
        "small    0.9 M  windowed, full  visibility, confidence  Apache-2.0  yes",
        "    for a test. In the package",
        "    pool:held: delta_avg 68.0, AJ 56.2 (pointloom-1, 32 videos)",
        "    clips:animals: AJ 23.5 (pointloom-1, 3 videos)",
        "    12.3 us per frame and point (256 points, 48 frames of 640 x 360; Linux, 2 cores, cpu, float32)",
    ]


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({}, ["Scores and speed: not measured"]),
        (measured(SCORES[2:]), ["clips:animals: AJ 23.5 (pointloom-1, 3 videos)", "Speed: not measured"]),
    ],
    ids=["nothing", "no speed"],
)
def test_what_was_not_measured_is_said_to_be_so(
    about: dict[str, str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = listed(tmp_path / "small.safetensors", about, monkeypatch)
    assert [line.strip() for line in format_catalogue([row]).splitlines()[3:]] == said


def test_without_scores_speed_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = listed(tmp_path / "small.safetensors", measured(speed=SPEED), monkeypatch)
    lines = [line.strip() for line in format_catalogue([row]).splitlines()[3:]]
    assert lines[0] == "Scores: not measured"
    assert lines[1].startswith("12.3 us per frame and point")


@pytest.mark.parametrize(
    "header",
    [{"scores": "good"}, {"scores": '[{"aj": 3}]'}, {"speed": "{}"}, {"speed": "3"}],
    ids=["no JSON", "another content", "an empty speed", "a number"],
)
def test_a_header_that_is_not_understood_is_a_warning_in_the_list(
    header: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FormatError, match="not understood"):
        read_measured(header)
    with pytest.warns(PointloomWarning, match="small: scores or speed .* not understood"):
        row = listed(tmp_path / "small.safetensors", header, monkeypatch)
    assert (row.scores, row.speed) == ((), None)


@pytest.mark.parametrize(
    ("licence", "shown"),
    [("MIT", "yes"), ("CC-BY-NC-4.0", "no"), (NOT_STATED, "no"), ("My own", "see terms")],
)
def test_whether_companies_may_use_weights_is_said_where_it_is_known(licence: str, shown: str) -> None:
    row = describe(ZooEntry("small", ALONE, "", licence, None))
    assert format_catalogue([row]).splitlines()[1].endswith(f"  {shown}")


def test_the_list_has_every_model_in_lines_of_100_characters() -> None:
    rows = catalogue()
    assert [row.name for row in rows] == list(zoo.ZOO)
    text = format_catalogue(rows)
    assert max(map(len, text.splitlines())) <= 100
    for row in rows:
        assert row.parameters > 0
        assert f"\n{row.name} " in text


def test_a_model_of_another_package_that_cannot_be_built_is_left_out_with_a_warning(tmp_path: Path) -> None:
    module = """
from pointloom.models.zoo import Family, ModelPackage, ZooEntry
def build(config): raise RuntimeError("no such layer")
MODELS = ModelPackage(Family(int, build), (ZooEntry("five", 5, "", "MIT", None),))
"""
    with installing(tmp_path) as install:
        install("unfinished", module, "[pointloom.models]\nnumber = unfinished:MODELS\n")
        with pytest.warns(PointloomWarning, match="'five' is left out.* RuntimeError: no such layer"):
            names = [row.name for row in catalogue()]
    assert names == list(zoo.ZOO)


def test_the_first_case_of_a_benchmark_tells_the_speed() -> None:
    rows = [
        {
            "model": name,
            "microseconds_per_frame_and_point": us,
            "points": 256,
            "frames": 48,
            "width": 640,
            "height": 360,
        }
        for name, us in (("lucas-kanade", 1.0), ("tiny", 12.34), ("tiny", 99.0))
    ]
    result = {"rows": rows, "run": {"processor": "Linux", "cores": 2, "device": "cpu", "precision": "float32"}}
    assert speed_of("tiny", json.loads(json.dumps(result))) == SPEED
    with pytest.raises(OptionError, match="'tinny' was not measured, only lucas-kanade, tiny"):
        speed_of("tinny", result)


def test_of_a_model_that_is_not_at_hand_the_speed_before_training_is_shown() -> None:
    rows = {row.name: row for row in catalogue()}
    before_training = measured_untrained()
    families = {type(zoo.ZOO[name].config) for name in before_training}
    assert families == {type(entry.config) for entry in zoo.ZOO.values() if not entry.shipped}
    assert all(rows[name].speed == speed for name, speed in before_training.items())
    assert rows["tiny"].speed not in (None, *before_training.values())  # its own


def test_of_a_model_that_learns_nothing_no_place_of_weights_is_told() -> None:
    row = replace(describe(ZooEntry("small", ALONE, "for a test", "MIT", None)), parameters=0)
    _, line, about, _ = format_catalogue([row]).splitlines()
    assert line.split()[:2] == ["small", "-"]
    assert about == "    for a test. Learns nothing"


def test_a_model_whose_weights_are_at_hand_is_described_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(path, small_model(replace(ALONE, modes=("full",))), {})
    assert describe(ZooEntry("small", ALONE, "", "MIT", str(path))).modes == ("full",)


def test_measurements_stay_with_the_weights_that_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(path, small_model(), {"recipe": "by hand", **measured(SCORES, SPEED)})
    assert read_measured(read_header(path)) == (SCORES, SPEED)
    assert read_header(path)["recipe"] == "by hand"
