"""The page on evaluation: its commands name what exists, its example runs, and no protocol is missing."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from pointloom import cli
from pointloom.datasets.pool import fill_pool
from pointloom.datasets.registry import list_datasets
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.evaluation.predictors import BASELINES
from pointloom.evaluation.protocols import PROTOCOLS
from pointloom.models.zoo import ZOO

PAGE = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
COMMANDS = re.findall(r"^pointloom evaluate .*$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_data_sets_models_and_protocols_that_exist(command: str) -> None:
    parts = shlex.split(command)
    assert parts[2].partition(":")[0] in [entry.name for entry in list_datasets()]
    named = dict.fromkeys(("-m", "--model", "--protocol"), "")
    for option, value in zip(parts[3::2], parts[4::2], strict=True):
        assert option in ("-o", *named)
        known = PROTOCOLS if option == "--protocol" else {**ZOO, **BASELINES}
        assert option == "-o" or value in known


def test_every_protocol_baseline_and_data_set_is_on_the_page() -> None:
    for name in (*PROTOCOLS, *BASELINES):
        assert f"`{name}`" in PAGE
    for entry in list_datasets():
        assert f"`{entry.name}:`" in PAGE


def test_thresholds_of_visibility_are_those_of_the_protocols() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for name, number in (("pointloom-1", "> 0.35"), ("cotracker3-first", "> 0.6")):
        (line,) = [line for line in lines if line.startswith(f"| `{name}`")]
        assert number in line
        assert f"> {PROTOCOLS[name].seen.threshold}" == number


def test_the_example_reads_what_the_command_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = LayeredConfig(size=(96, 64), frames=6, tracks=12)
    fill_pool(tmp_path / "pool", range(2), lambda seed: make_clip(config, TextureBank.procedural(count=2), seed))
    monkeypatch.setattr(sys, "argv", ["pointloom", "evaluate", "pool:pool", "-m", "tiny=static", "-o", "out/clips"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    capsys.readouterr()
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(example, "evaluation.md", "exec"), {})
    assert re.fullmatch(r"AJ \d+\.\d \[\d+\.\d, \d+\.\d\] over 2 clips\n", capsys.readouterr().out)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target.startswith("https://") or (Path(__file__).parents[2] / "docs" / target).exists()
