"""`pointloom bench` as a person meets it."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from pointloom import cli
from pointloom.evaluation import bench as module
from pointloom.evaluation.bench import Measurement, Spread


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be run in new processes; nothing is."""
    calls: list[Any] = []

    def pretend(function: Any, *arguments: Any) -> Any:
        calls.append((function.__name__, *arguments))
        if function.__name__ != "measure":
            return None
        name, _, case, *_ = arguments
        return Measurement(name, case, Spread(2, 1, 4), {"decode": 1.0}, 10**8, 10**7)

    monkeypatch.setattr(module, "in_new_process", pretend)
    return calls


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pointloom", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def test_it_prints_a_table(run, asked):
    code, out, _ = run("--points", 10, "--frames", 20, "--size", "640x360")
    assert code == 0
    assert "lucas-kanade  10      20      640x360  10.0 (5.0-20.0)" in out
    assert "tiny" in out
    assert "decode 100 %" in out


def test_options_reach_the_measurements(run, asked):
    code, out, _ = run(
        *("--model", "tiny", "--points", 10, "--points", 30, "--frames", 20, "--size", "320x180"),
        *(
            "--repeats",
            7,
            "--warm-up",
            2,
            "--threads",
            3,
            "--device",
            "cpu",
            "--precision",
            "bfloat16",
            "--json",
            "--untrained",
        ),
    )
    assert code == 0
    result = json.loads(out)
    assert [(row["model"], row["points"], row["width"], row["height"]) for row in result["rows"]] == [
        ("lucas-kanade", 10, 320, 180),
        ("tiny", 10, 320, 180),
        ("lucas-kanade", 30, 320, 180),
        ("tiny", 30, 320, 180),
    ]
    assert (result["run"]["measured"], result["run"]["warm_up"], result["run"]["threads"]) == (7, 2, 3)
    assert all((*call[5:7], call[8]) == ("cpu", "bfloat16", True) for call in asked if call[0] == "measure")
    assert result["run"]["precision"] == "bfloat16"


def test_without_options_points_frames_and_size_are_varied(run, asked):
    code, out, _ = run("--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    for what in ("points", "frames", "width"):
        assert len({row[what] for row in rows}) == 3


@pytest.mark.parametrize("size", ["640", "640x", "axb", "640x360x3"])
def test_a_size_that_is_none_is_a_mistake_of_the_user(run, asked, size):
    code, _, err = run("--size", size)
    assert code == 2
    assert f"--size is written as 640x360, got '{size}'" in err
    assert not asked
