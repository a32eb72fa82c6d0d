"""`pointloom synth layered` in the layouts that it knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pointloom import cli
from pointloom.datasets.kubric import Kubric


def test_layered_clips_can_be_made_in_kubrics_layout_in_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for clips, said in ((1, "1 clips made, 0 were there"), (2, "1 clips made, 1 were there")):
        options = f"--clips {clips} --frames 2 --width 48 --height 32 --layout kubric".split()
        monkeypatch.setattr(sys, "argv", ["pointloom", "synth", "layered", str(tmp_path), *options])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        assert said in capsys.readouterr().out
    assert [clip.frames.shape for clip in Kubric(tmp_path)] == [(2, 32, 48, 3)] * 2
