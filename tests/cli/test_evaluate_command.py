"""`pointloom evaluate` as a person meets it: a table, three files, and nothing tracked twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pointloom import cli
from pointloom.datasets.pool import fill_pool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.evaluation import predictors


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pool")
    config, bank = LayeredConfig(size=(96, 64), frames=8, tracks=24), TextureBank.procedural(count=2)
    fill_pool(folder, range(2), lambda seed: make_clip(config, bank, seed))
    return f"pool:{folder}"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["pointloom", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_a_table_is_printed_and_results_and_report_are_written(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, pool, "-m", "lucas-kanade", "-m", "static", "-o", tmp_path) == 0
    out = capsys.readouterr().out
    assert "lucas-kanade" in out
    assert "static" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["format"] == 1
    rows = {(row["model"], row["metric"]): row["value"] for row in results["rows"] if row["group"] == "all"}
    assert rows["lucas-kanade", "delta_avg"] > rows["static", "delta_avg"]
    assert (tmp_path / "results.csv").stat().st_size > 100
    page = (tmp_path / "report.html").read_text()
    assert "<table" in page
    assert "http://" not in page.replace("http://www.w3.org", "")  # self-contained


def test_scores_can_be_made_again_without_a_model(pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, pool, "-m", "static", "-o", tmp_path) == 0
    before = json.loads((tmp_path / "results.json").read_text())["rows"]
    (tmp_path / "results.json").unlink()
    assert run(monkeypatch, pool, "-o", tmp_path) == 0
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == before


def test_an_unknown_data_set_ends_with_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "tapvid-davies:x", "-m", "static", "-o", tmp_path) == 2
    assert "tapvid-davis" in capsys.readouterr().err


def test_an_interrupted_run_ends_with_130_and_goes_on_where_it_stopped(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still, calls = predictors.BASELINES["static"], []

    def interrupted(frames: np.ndarray, queries: np.ndarray, direction: object) -> object:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return still(frames, queries, direction)

    monkeypatch.setitem(predictors.BASELINES, "static", interrupted)
    assert run(monkeypatch, pool, "-m", "static", "-o", tmp_path) == 130
    assert not (tmp_path / "results.json").exists()
    assert run(monkeypatch, pool, "-m", "static", "-o", tmp_path) == 0
    assert len(calls) == 3  # one clip, the interruption, the other clip


def test_results_of_another_protocol_are_not_reused(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, pool, "-m", "static", "-o", tmp_path) == 0
    assert run(monkeypatch, pool, "-m", "static", "-o", tmp_path, "--protocol", "tapvid-first") == 2
    assert "protocol.name = pointloom-1" in capsys.readouterr().err


def test_json_is_what_is_written(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, pool, "-m", "still=static", "-o", tmp_path, "--limit", 1, "--json") == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "results.json").read_text().strip()
    content = json.loads(printed)
    assert {row["videos"] for row in content["rows"] if row["metric"] == "aj"} == {1}
    assert content["run"]["command"].startswith("pointloom evaluate pool:")
    assert content["run"]["command"].endswith("--model still=static --protocol pointloom-1 --limit 1")
    assert content["run"]["protocol"]["name"] == "pointloom-1"
    assert content["run"]["versions"]["pointloom"]


def test_the_list_names_data_sets_protocols_and_baselines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--list") == 0
    out = capsys.readouterr().out
    for name in ("tapvid-davis", "cotracker3-first-alone", "dis-flow"):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["POOL", "-m", "statik"], "Did you mean static"),
        (["POOL", "-m", "static", "--protocol", "tapvid"], "Did you mean tapvid-first"),
        (["POOL"], "Say what to evaluate with --model"),
        (["pool:nowhere", "-m", "static"], "there is no nowhere"),
        (["-m", "static"], "--list"),
    ],
    ids=["no such model", "no such protocol", "nothing to score again", "no such folder", "no data set"],
)
def test_a_mistake_ends_with_code_2_and_a_sentence(
    pool: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    named = [pool if argument == "POOL" else argument for argument in arguments]
    assert run(monkeypatch, *named, "-o", tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists()


def test_help_teaches_with_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    assert "pointloom evaluate clips:benchmarks/clips --model tiny" in capsys.readouterr().out
