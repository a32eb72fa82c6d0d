"""What `import pointloom` gives, and how little it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import pointloom


def test_every_public_name_is_there_and_listed() -> None:
    for name in pointloom.__all__:
        assert getattr(pointloom, name) is not None
    assert dir(pointloom) == pointloom.__all__
    with pytest.raises(AttributeError, match="no attribute 'Loom'"):
        pointloom.Loom  # noqa: B018


def test_the_version_is_that_of_the_installed_package() -> None:
    assert pointloom.__version__ == version("pointloom")


def test_importing_loads_nothing_heavy() -> None:
    heavy = ("torch", "cv2", "av", "numpy")
    code = f"import sys, pointloom, pointloom.cli; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert loaded == "[]"


def test_tracking_imports_no_extra() -> None:
    extras = ("lightning_fabric", "omegaconf", "tensorboard", "matplotlib", "scipy")
    code = (
        "import sys; from pointloom import Tracker, Stream, Tracks, Queries, load_model, open_video, write_video;"
        f"print([m for m in {extras} if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert loaded == "[]"
