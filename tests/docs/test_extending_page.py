"""The page on extending: its package, installed as it stands there, is a model like any other."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from installed_packages import installing
from pointloom import Tracks, cli, load_model, open_video, write_video
from pointloom.datasets.pool import fill_pool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.evaluation import bench
from tracking.small_models import moving_noise

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
SIZE, FRAMES = (96, 64), 8


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


MODULE, EXAMPLE = blocks("python")
COMMANDS = {line.split()[1]: line for line in blocks("sh")[0].splitlines()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a clip that slides to the left by a pixel a frame, where the page's package is installed."""
    project = tomllib.loads(blocks("toml")[0])["project"]
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {place}" for name, place in points.items())]
    write_video(tmp_path / "clip.mp4", moving_noise(FRAMES, SIZE), fps=25)
    monkeypatch.chdir(tmp_path)
    with installing(tmp_path / "installed") as install:
        install(project["name"].replace("-", "_"), MODULE, "\n".join(lines))
        yield tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


def test_the_command_lists_the_model_and_tracks_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(COMMANDS["models"], monkeypatch)
    assert re.search(r"^template ", capsys.readouterr().out, flags=re.MULTILINE)
    run(COMMANDS["track"], monkeypatch)
    tracks = Tracks.load(folder / "out/template/tracks.npz")
    x, y = tracks.query[:, 1], tracks.query[:, 2]
    whole = (x > FRAMES + 6) & (x < SIZE[0] - 6) & (y > 6) & (y < SIZE[1] - 6)  # the patch stays inside the frame
    moved = tracks.xy[whole] - tracks.query[whole, None, 1:]
    expected = np.stack([-np.arange(FRAMES), np.zeros(FRAMES)], axis=-1)
    assert whole.sum() >= 6
    np.testing.assert_allclose(moved, np.broadcast_to(expected, moved.shape), atol=0.3)
    assert tracks.seen()[whole].all()


def test_the_example_streams(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_video("clip.mp4") as video:
        exec(compile(EXAMPLE, "extending.md", "exec"), {"camera": list(video[:])})
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == FRAMES
    assert answers[0].startswith("0 [[40. 30.]] [1.]")


def test_it_is_evaluated_beside_the_baselines(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = LayeredConfig(size=SIZE, frames=FRAMES, tracks=12)
    fill_pool(folder / "clips", range(2), lambda seed: make_clip(config, TextureBank.procedural(count=2), seed))
    run(COMMANDS["evaluate"], monkeypatch)
    assert "template" in capsys.readouterr().out


def test_its_speed_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "in_new_process", lambda function, *arguments: function(*arguments))
    smaller = "--points 4 --frames 4 --size 64x64 --repeats 1 --warm-up 0"
    run(f"{COMMANDS['bench'].partition(' --points')[0]} {smaller}", monkeypatch)


def test_it_is_given_back_from_a_file(folder: Path) -> None:
    from pointloom.models.weight_files import save_weights

    save_weights(folder / "template.safetensors", load_model("template"), {})
    assert load_model("template.safetensors").config == load_model("template").config


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists()
    for place in re.findall(r"`((?:models|queries|datasets|evaluation)/\w*\.py)`", PAGE):
        assert (ROOT / "src/pointloom" / place).exists(), place
