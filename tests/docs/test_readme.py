"""What the first page promises is true: its blocks of code run, its commands work, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pointloom import cli, open_video, write_video
from pointloom.datasets.pool import write_clip
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SIZE, FRAMES = (320, 240), 34
CLIP = "markers/desk_cam3"  # one of the clips that the page speaks of, instead of all
SHORTER = {  # options that the page leaves out
    "track": "-o somewhere",
    "bench": "--points 4 --frames 4 --size 64x64 --repeats 1 --warm-up 0",
    "synth": "--clips 1 --frames 2 --width 64 --height 48",
    "train": "steps=1 processes=1 start_from=null validation=null 'data.sources=[{folder: cache/pool}]' "
    "data.frames=[8,8] data.points=8",
}
WEDGE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [
    line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.startswith("pointloom")
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples on the page take for granted."""
    clip = make_clip(LayeredConfig(size=SIZE, frames=FRAMES, tracks=16), TextureBank.procedural(count=2), 1)
    frames = clip.frames
    write_video(tmp_path / "clip.mp4", frames, fps=25)
    write_clip(tmp_path / "cache/pool", clip)
    for name in ("PHOTOS", "OBJ_FILES"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "PHOTOS/photo.jpg"), frames[0])
    (tmp_path / "OBJ_FILES/wedge.obj").write_text(WEDGE)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "joints.csv").write_text("frame,x,y\n0,20,30\n3,40,50\n")
    (tmp_path / "shot").mkdir()
    for i, frame in enumerate(frames[:6]):
        cv2.imwrite(str(tmp_path / f"shot/{i:03}.png"), frame)
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[20:60, 30:90] = 255
    cv2.imwrite(str(tmp_path / "object.png"), mask)
    shutil.copytree(ROOT / "benchmarks/clips" / CLIP, tmp_path / "benchmarks/clips" / CLIP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("(")[1].split(")")[0])
def test_blocks_of_code_run(block: str, folder: Path) -> None:
    with open_video("clip.mp4") as video:
        names = {"camera": list(video[:20])}
    exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = "" if "-o" in command else SHORTER[command.split()[1]]
    monkeypatch.setattr(sys, "argv", shlex.split(f"{command} {extra}"))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
