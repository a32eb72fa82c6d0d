"""`pointloom synth layered`: what it makes, and in which layout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pointloom import cli
from pointloom.datasets.kubric import Kubric
from pointloom.datasets.pool import ClipPool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip


def layered(monkeypatch: pytest.MonkeyPatch, folder: Path, options: str) -> None:
    arguments = f"--frames 2 --width 48 --height 32 {options}".split()
    monkeypatch.setattr(sys, "argv", ["pointloom", "synth", "layered", str(folder), *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0


def test_layered_clips_can_be_made_in_kubrics_layout_in_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for clips, said in ((1, "1 clips made, 0 were there"), (2, "1 clips made, 1 were there")):
        layered(monkeypatch, tmp_path, f"--clips {clips} --layout kubric")
        assert said in capsys.readouterr().out
    assert [clip.frames.shape for clip in Kubric(tmp_path)] == [(2, 32, 48, 3)] * 2


def test_layered_clips_are_made_of_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layered(monkeypatch, tmp_path, "--clips 3 --figures 1 --specimens 0.5 --landmarks 0.6")
    config = LayeredConfig(size=(48, 32), frames=2, figures=1.0, specimens=0.5, landmarks=0.6)
    for seed, written in enumerate(ClipPool.open(tmp_path)):
        expected = make_clip(config, TextureBank.procedural(), seed)
        assert written.frames.tobytes() == expected.frames.tobytes()
        assert written.xy.tobytes() == expected.xy.tobytes()
