"""The command as a person meets it: what it writes, what it says, how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pointloom import Tracks, cli, open_video, write_video
from pointloom.cli.track import name_of
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.models.weight_files import save_weights
from tracking.small_models import small_model


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = make_clip(LayeredConfig(size=(96, 64), frames=12, tracks=8), TextureBank.procedural(count=2), 3).frames
    write_video(path, frames, fps=25)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, small_model(), {})
    return str(path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command; returns its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pointloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def test_track_writes_a_video_the_tracks_and_a_sheet(run, clip: Path, weights: str, tmp_path: Path) -> None:
    code, out, _ = run("track", clip, "--grid", 3, "--model", weights, "-o", tmp_path)
    assert code == 0
    assert "9 points through 12 frames" in out
    tracks = Tracks.load(tmp_path / "tracks.npz")
    assert tracks.xy.shape == (9, 12, 2)
    with open_video(tmp_path / "tracks.mp4") as drawn, open_video(clip) as plain:
        assert drawn.size == plain.size
        np.testing.assert_allclose(drawn.seconds, plain.seconds, atol=1e-3)
        assert np.abs(drawn[0].astype(int) - plain[0]).max() > 50  # something is drawn
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] > 200
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sheet.png", "tracks.mp4", "tracks.npz"]


def test_layers_run_in_the_precision_asked_for(run, clip: Path, weights: str, tmp_path: Path) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        code, _, _ = run("track", clip, "--model", weights, "--precision", precision, "-o", tmp_path / precision)
        assert code == 0
        found[precision] = Tracks.load(tmp_path / precision / "tracks.npz").xy
    assert 0 < np.abs(found["float32"] - found["bfloat16"]).max() < 2


def test_kinds_of_points_add_up(run, clip: Path, weights: str, tmp_path: Path) -> None:
    table = tmp_path / "points.csv"
    table.write_text("frame,x,y\n4,10.5,20\n0,3,4\n")
    code, out, _ = run(
        "track", clip, "--points", table, "--grid", 2, "--model", weights, "-o", tmp_path / "out", "--json"
    )
    assert code == 0
    assert json.loads(out)["points"] == 6
    np.testing.assert_allclose(Tracks.load(tmp_path / "out/tracks.npz").query[0], [4, 10.5, 20])


def test_results_are_not_overwritten_unasked(run, clip: Path, weights: str, tmp_path: Path) -> None:
    (tmp_path / "tracks.npz").write_text("precious")
    code, _, err = run("track", clip, "--grid", 2, "--model", weights, "-o", tmp_path)
    assert code == 2
    assert "--overwrite" in err
    assert (tmp_path / "tracks.npz").read_text() == "precious"
    code, *_ = run("track", clip, "--grid", 2, "--model", weights, "-o", tmp_path, "--overwrite")
    assert code == 0
    assert len(Tracks.load(tmp_path / "tracks.npz")) == 4


def test_a_place_that_cannot_hold_results_is_noticed_before_tracking(run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        code, _, err = run("track", clip, "--model", "no-model-is-loaded", "-o", out)
        assert code == 2
        assert f"{out} cannot be a folder for results" in err


def test_a_frame_for_points_that_say_theirs_is_a_mistake(run, clip: Path, weights: str, tmp_path: Path) -> None:
    table = tmp_path / "points.csv"
    table.write_text("frame,x,y\n4,10.5,20\n")
    code, _, err = run("track", clip, "--points", table, "--frame", 3, "--model", weights, "-o", tmp_path / "out")
    assert code == 2
    assert "points of a file say their frames themselves" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.mp4"], "nowhere.mp4"),
        (["CLIP", "--frame", "99"], "99"),
        (["CLIP", "--model", "tinny"], "Did you mean tiny"),
        (["CLIP", "--memory", "lots"], "lots"),
        (["CLIP", "--grid", "0"], "grid"),
        (["CLIP", "--direction", "sideways"], "sideways"),
    ],
    ids=["no file", "no such frame", "no such model", "no number", "no points", "no direction"],
)
def test_a_mistake_ends_with_code_2_and_a_sentence(
    run, clip: Path, weights: str, tmp_path: Path, arguments: list[str], said: str
) -> None:
    named = [str(clip) if a == "CLIP" else a for a in arguments]
    if "--model" not in named:
        named += ["--model", weights]
    code, out, err = run("track", *named, "-o", tmp_path / "out")
    assert code == 2
    assert said in err
    assert "Traceback" not in err + out
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_ends_with_130(
    run, clip: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pointloom.Tracker.track", interrupted)
    code, _, err = run("track", clip, "--model", weights, "-o", tmp_path)
    assert code == 130
    assert "interrupted; files that were complete are kept" in err
    assert "Traceback" not in err


def test_results_are_called_as_the_clip_or_the_folder_of_its_images(tmp_path: Path) -> None:
    (tmp_path / "plate.v1").mkdir()
    names = {"clip.mp4": "clip", "plate.v1": "plate.v1", "plate.v1/.": "plate.v1", "plate.v1/*.png": "plate.v1"}
    for place, name in names.items():
        assert name_of(tmp_path / place) == name


def test_models_lists_licences(run) -> None:
    code, out, _ = run("models")
    assert code == 0
    (online,) = [line.split() for line in out.splitlines() if line.startswith("cotracker3-online ")]
    assert online[-2:] == ["CC-BY-NC-4.0", "no"]
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = run("models", "--json")
    tiny = next(row for row in json.loads(out) if row["name"] == "tiny")
    assert tiny["commercial"]
    assert tiny["modes"] == ["windowed", "full"]
    assert tiny["outputs"] == ["visibility", "confidence"]
    assert {"parameters", "shipped", "licence", "summary", "citation", "scores", "speed"} <= tiny.keys()


def test_synth_makes_clips_that_training_reads(run, tmp_path: Path) -> None:
    code, out, _ = run("synth", "layered", tmp_path, "--clips", 2, "--frames", 4, "--width", 64, "--height", 48)
    assert code == 0
    assert "2 clips made" in out
    code, out, _ = run("synth", "layered", tmp_path, "--clips", 3, "--frames", 4, "--width", 64, "--height", 48)
    assert "1 clips made, 2 were there" in out


def test_a_wrong_recipe_ends_with_code_2(run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: tiny\nobjective: matching\nsteps: 1\nspeed: 9\n")
    code, _, err = run("train", recipe)
    assert code == 2
    assert "speed" in err


def test_help_teaches_with_examples(run) -> None:
    code, out, _ = run("track", "--help")
    assert code == 0
    assert "pointloom track clip.mp4 --sift 200" in out
