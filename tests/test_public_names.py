import subprocess
import sys
from pathlib import Path

import pytest

import pointloom

PUBLIC = ["Queries", "Stream", "Tracker", "Tracks", "list_models", "load_model", "open_video", "write_video"]


def test_the_public_names_are_these():
    assert sorted(pointloom.__all__) == sorted([*PUBLIC, "__version__"])
    assert dir(pointloom) == sorted(pointloom.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_leads_to_its_home(name):
    assert getattr(pointloom, name).__name__ == name


def test_the_version_is_that_of_the_package():
    assert f'version = "{pointloom.__version__}"' in (Path(__file__).parents[1] / "pyproject.toml").read_text()


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tracker'"):
        _ = pointloom.tracker


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert not {"torch", "numpy", "cv2", "av"} & modules_after("import pointloom")


def test_tracks_and_queries_come_without_torch():
    loaded = modules_after("from pointloom import Queries, Tracks; Queries.grid(3)")
    assert "numpy" in loaded
    assert not {"torch", "cv2", "av"} & loaded
