"""The wheel, installed into an empty environment outside the tree, tracks a clip with the weights it carries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_the_weights_and_nothing_beside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "pointloom/weights/tiny.safetensors" in names
    assert "pointloom/py.typed" in names
    assert all(name.startswith(("pointloom/", "pointloom-")) for name in names)
    assert wheel.stat().st_size < 12e6


def test_the_installed_command_tracks_a_clip(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    clip = shutil.copy(ROOT / "examples/clips/bottles_hand_pick.mp4", tmp_path)
    done = subprocess.run(
        [environment / "bin" / "pointloom", "track", clip, "--grid", "4", "-o", tmp_path / "out"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/tracks.mp4").stat().st_size > 10_000
    where = subprocess.run(
        [python, "-c", "import pointloom; print(pointloom.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(str(environment))
