"""Filling a folder with generated clips, in each layout: what is read back, what goes on, what is refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.generated import ClipLayout, fill_folder
from pointloom.datasets.kubric import Kubric
from pointloom.datasets.kubric_layout import KUBRIC
from pointloom.datasets.pool import POOL, ClipPool
from pointloom.datasets.synthetic import LayeredConfig, TextureBank, make_clip
from pointloom.errors import DatasetError

LAYOUTS = [pytest.param(POOL, ClipPool.open, id="pool"), pytest.param(KUBRIC, Kubric, id="kubric")]
CONFIG = LayeredConfig(size=(48, 32), frames=3, tracks=5)
BANK = TextureBank.procedural(count=2)


def make(seed: int) -> AnnotatedClip:
    return make_clip(CONFIG, BANK, seed)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("layout", "reader"), LAYOUTS)
def test_layered_clips_are_read_as_they_were_made(layout: ClipLayout, reader: type[Kubric], tmp_path: Path) -> None:
    assert fill_folder(tmp_path, range(4, 6), make, layout) == 2
    read: Iterable[AnnotatedClip] = reader(tmp_path)
    for seed, clip in zip((4, 5), read, strict=True):
        made = make(seed)
        assert clip.name == f"0000000{seed}"
        np.testing.assert_array_equal(clip.frames, made.frames)
        np.testing.assert_allclose(clip.xy, made.xy, atol=1e-4)  # half a pixel there and back
        np.testing.assert_array_equal(clip.visible, made.visible)
        np.testing.assert_array_equal(clip.valid, made.valid)


@pytest.mark.parametrize(("layout", "reader"), LAYOUTS)
def test_an_interrupted_run_goes_on_and_gives_the_same_files(
    layout: ClipLayout, reader: type[Kubric], tmp_path: Path
) -> None:
    def interrupted(seed: int) -> AnnotatedClip:
        if seed == 1:
            raise KeyboardInterrupt
        return make(seed)

    fill_folder(tmp_path / "whole", range(3), make, layout)
    with pytest.raises(KeyboardInterrupt):
        fill_folder(tmp_path / "parts", range(3), interrupted, layout)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["00000000"]
    done: list[float] = []
    assert fill_folder(tmp_path / "parts", range(3), make, layout, done.append) == 2
    assert done == pytest.approx([2 / 3, 1])
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert fill_folder(tmp_path / "parts", range(3), make, layout) == 0


def test_clips_of_another_layout_are_left_alone(tmp_path: Path) -> None:
    fill_folder(tmp_path, range(1), make, POOL)
    before = content(tmp_path)
    with pytest.raises(DatasetError, match="00000000 is there, but is not a clip in the layout kubric"):
        fill_folder(tmp_path, range(1), make, KUBRIC)
    assert content(tmp_path) == before
