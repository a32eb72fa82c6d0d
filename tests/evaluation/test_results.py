"""Files of results: what is written can be read, and nothing else is."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from evaluation.made_results import RESULTS
from pointloom.errors import FormatError
from pointloom.evaluation.results import Results
from pointloom.evaluation.table import as_text
from pointloom.models.catalogue import Score


def test_saving_and_loading_gives_the_same(tmp_path: Path) -> None:
    RESULTS.save(tmp_path)
    assert str(Results.load(tmp_path / "results.json")) == str(RESULTS)  # as text, since NaN does not equal NaN


def test_scores_for_the_header_of_weights_are_means_over_all_clips_that_have_a_value() -> None:
    dataset = "made:clips & more"
    assert RESULTS.scores("tiny") == [
        Score(dataset, "delta_avg", 70, "pointloom-1", 2),
        Score(dataset, "aj", 61.25, "pointloom-1", 2),
    ]
    assert RESULTS.scores("still") == [Score(dataset, "aj", 7, "pointloom-1", 2)]


def test_the_json_file_is_what_any_program_can_read(tmp_path: Path) -> None:
    RESULTS.save(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)  # no NaN in it
    assert content["format"] == 1
    row = next(row for row in content["rows"] if row["group"] == "rare")
    assert row == {
        "dataset": "made",
        "group": "rare",
        "kind": "points",
        "model": "tiny",
        "weights": "abc123",
        "query_mode": "first",
        "metric": "aj",
        "unit": "%",
        "value": 50.0,
        "low": None,
        "high": None,
        "videos": 1,
        "missing": [],
    }


def test_the_csv_file_has_a_line_for_each_row(tmp_path: Path) -> None:
    RESULTS.save(tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(RESULTS.rows)
    assert (lines[0]["model"], lines[0]["metric"], float(lines[0]["value"])) == ("tiny", "aj", 61.25)
    assert lines[0]["missing"] == "a/blank"
    nothing = next(line for line in lines if line["metric"] == "oa")
    assert nothing["value"] == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 2, "rows": []}', "has format 2; this version reads format 1"),
        ("[1, 2]", "not a file of results"),
        ("something", "not a file of results"),
        ('{"format": 1, "rows": [{"group": "x"}]}', "does not hold what results are made of"),
    ],
    ids=["newer", "a list", "no JSON", "incomplete"],
)
def test_other_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(FormatError, match=said):
        Results.load(tmp_path / "results.json")


def test_the_table_has_groups_models_and_scores() -> None:
    lines = as_text(RESULTS).splitlines()
    first = next(line for line in lines if line.startswith("all"))
    assert first.split() == ["all", "tiny", "2", "61.2*", "[40.0,", "80.0]", "70.0", "-", "-", "-", "-", "-", "-"]
    assert next(line for line in lines if line.startswith("composite")).split()[1] == "tiny"
    assert any(line == "composite: semi-synthetic." for line in lines)
    assert any("without a/blank" in line for line in lines)


def test_kinds_of_truth_have_tables_of_their_own() -> None:
    text = as_text(RESULTS)
    points, joints = text.index("Points:"), text.index("Joints of animals")
    assert points < text.index("all ") < joints < text.index("badja")


def test_a_number_that_is_not_there_is_a_dash_not_a_zero() -> None:
    assert math.isnan(RESULTS.find("still", "all", "points", "oa").value)
    still = next(line for line in as_text(RESULTS).splitlines() if line.strip().startswith("still"))
    assert "nan" not in still
    assert "0.0" not in still
