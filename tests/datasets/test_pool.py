"""A pool of clips on disk: what is written is read, what is there is not made again, what broke off is no trouble."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.pool import ClipPool, fill_pool, write_clip
from pointloom.errors import DatasetError


def small_clip(seed: int, name: str = "clip") -> AnnotatedClip:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (3, 8, 10, 3), dtype=np.uint8)
    xy = rng.uniform(0, 8, (4, 3, 2)).astype(np.float32)
    return AnnotatedClip(name, frames, xy, rng.random((4, 3)) < 0.7, np.ones((4, 3), bool))


def test_a_clip_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_clip(tmp_path, small_clip(5))
    (read,) = ClipPool.open(tmp_path)
    for field in ("frames", "xy", "visible", "valid"):
        assert np.array_equal(getattr(read, field), getattr(small_clip(5), field)), field


def test_clips_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make(seed: int) -> AnnotatedClip:
        made.append(seed)
        return small_clip(seed)

    assert fill_pool(tmp_path, range(2), make) == 2
    assert fill_pool(tmp_path, range(3), make) == 1
    assert made == [0, 1, 2]
    assert ClipPool.open(tmp_path).names == ("00000000", "00000001", "00000002")


def test_what_a_killed_process_left_is_neither_read_nor_in_the_way(tmp_path: Path) -> None:
    left = tmp_path / f".clip.{os.getpid()}"
    left.mkdir()
    (left / "tracks.npz").write_bytes(b"half")
    with pytest.raises(DatasetError, match="holds no clips"):
        ClipPool.open(tmp_path)
    write_clip(tmp_path, small_clip(1))
    assert ClipPool.open(tmp_path).names == ("clip",)
    assert not left.exists()


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path, small_clip(1))
    assert not list(tmp_path.iterdir())


def test_a_damaged_clip_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path, small_clip(1))
    (tmp_path / "clip" / "tracks.npz").write_bytes(b"half")
    with pytest.raises(DatasetError, match="clip is damaged"):
        ClipPool.open(tmp_path)[0]
