"""`pointloom evaluate` as a person meets it: a table, three files, and nothing tracked twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pointloom import cli
from pointloom.datasets.pool import fill_pool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip


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
