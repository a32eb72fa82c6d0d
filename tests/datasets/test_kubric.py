"""Kubric in its two layouts: small sequences made here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pointloom.datasets.kubric import Kubric, KubricMoviF
from pointloom.datasets.registry import open_dataset
from pointloom.errors import DatasetError, UnsafeFileError, VideoError

FRAMES, WIDTH, HEIGHT = 11, 32, 24
HIDDEN = np.zeros((2, FRAMES), bool)
HIDDEN[0, 3] = True


def frames() -> np.ndarray:
    """Frame t is evenly coloured (20 t, 10, 200)."""
    colours = np.array([[20 * t, 10, 200] for t in range(FRAMES)], np.uint8)[:, None, None]
    return np.broadcast_to(colours, (FRAMES, HEIGHT, WIDTH, 3)).copy()


def points() -> np.ndarray:
    xy = np.random.default_rng(0).uniform(1, 20, (2, FRAMES, 2))
    xy[0, 0] = [0.5, 0.5]
    return xy


def save(file: Path, content: Any) -> None:
    """Save an object in an array without axes, as `np.save` does with a dictionary."""
    array = np.empty((), object)
    array[()] = content
    np.save(file, array, allow_pickle=True)


def make_sequence(top: Path, name: str, **change: Any) -> None:
    """As CoTracker3 published it, with what else lies in a folder."""
    folder = top / name
    (folder / "frames").mkdir(parents=True)
    for t, frame in enumerate(frames()):
        cv2.imwrite(str(folder / "frames" / f"{t:03}.png"), frame[..., ::-1])
    content = {"coords": points(), "visibility": HIDDEN, "depth": np.zeros(3)}
    save(folder / f"{name}.npy", {**content, **change})
    np.save(folder / f"{name}_trajs_2d.npy", points())


def movi_f(**change: Any) -> dict[str, Any]:
    content = {
        "video": (frames() / 255 * 2 - 1).astype(np.float32),
        "query_points": np.zeros((2, 3), np.float32),
        "target_points": points().astype(np.float32),
        "occluded": HIDDEN,
    }
    return {**content, **change}


def read(reader: Kubric | KubricMoviF) -> Any:
    (clip,) = reader
    return clip


# --- as CoTracker3 published it ---------------------------------------------------------------------------------------


def test_sequences_are_found_in_the_order_of_their_names(tmp_path):
    for name in ("0001", "0000"):
        make_sequence(tmp_path, name)
    reader = Kubric(tmp_path)
    assert len(reader) == 2
    assert [clip.name for clip in reader] == ["0000", "0001"]


def test_a_sequence_has_its_frames_in_order_and_in_the_right_colours(tmp_path):
    make_sequence(tmp_path, "0000")
    clip = read(Kubric(tmp_path))
    np.testing.assert_array_equal(clip.frames, frames())
    assert clip.frames.dtype == np.uint8


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_what_is_called_visibility_is_true_where_the_point_is_hidden(tmp_path, kind):
    make_sequence(tmp_path, "0000", visibility=HIDDEN.astype(kind))
    clip = read(Kubric(tmp_path))
    np.testing.assert_array_equal(clip.visible, ~HIDDEN)
    assert clip.visible.dtype == bool
    assert clip.valid.all()


def test_convention_positions_are_raster_and_ours_count_from_pixel_centres(tmp_path):
    make_sequence(tmp_path, "0000")
    clip = read(Kubric(tmp_path))
    assert clip.xy[0, 0].tolist() == [0, 0]  # stored as (0.5, 0.5), the centre of the first pixel
    np.testing.assert_allclose(clip.xy, points() - 0.5, atol=1e-5)
    assert clip.xy.dtype == np.float32


def test_a_position_that_is_no_number_is_not_valid_and_one_outside_the_frame_not_visible(tmp_path):
    coords = points()
    coords[0, 1] = [np.inf, 3]
    coords[0, 2] = [WIDTH + 0.1, 3]
    coords[1, 2] = [WIDTH - 0.1, 3]  # still on the last pixel
    make_sequence(tmp_path, "0000", coords=coords)
    clip = read(Kubric(tmp_path))
    assert clip.valid[0, :4].tolist() == [True, False, True, True]
    assert clip.visible[0, :4].tolist() == [True, False, False, False]
    assert clip.visible[1, 2]
    assert np.isfinite(clip.xy).all()


def test_a_sequence_is_read_only_when_it_is_asked_for(tmp_path):
    make_sequence(tmp_path, "0000")
    make_sequence(tmp_path, "0001")
    (tmp_path / "0001" / "0001.npy").write_bytes(b"damaged")
    clips = iter(Kubric(tmp_path))
    next(clips)
    with pytest.raises(DatasetError, match=r"0001\.npy is damaged"):
        next(clips)


# --- as the converter gives it ----------------------------------------------------------------------------------------


def test_a_file_of_the_converter_is_read(tmp_path):
    save(tmp_path / "0003.npy", movi_f())
    reader = KubricMoviF(tmp_path)
    clip = read(reader)
    assert len(reader) == 1
    assert clip.name == "0003"
    np.testing.assert_array_equal(clip.frames, frames())  # -1..1 back to the same bytes
    assert clip.frames.dtype == np.uint8
    np.testing.assert_allclose(clip.xy, points() - 0.5, atol=1e-5)
    np.testing.assert_array_equal(clip.visible, ~HIDDEN)


def test_both_are_known_by_name(tmp_path):
    make_sequence(tmp_path / "published", "0000")
    assert [clip.name for clip in open_dataset(f"kubric:{tmp_path}/published")] == ["0000"]
    save(tmp_path / "0003.npy", movi_f())
    assert [clip.name for clip in open_dataset(f"kubric-movi-f:{tmp_path}")] == ["0003"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [Kubric, KubricMoviF])
def test_a_folder_without_sequences_is_refused(tmp_path, reader):
    with pytest.raises(DatasetError, match="holds no sequences"):
        reader(tmp_path)


def test_missing_frames_are_named(tmp_path):
    make_sequence(tmp_path, "0000")
    (tmp_path / "0000" / "frames" / "010.png").unlink()
    with pytest.raises(DatasetError, match=r"0000\.npy has tracks of 11 frames, but there are 10 frames"):
        read(Kubric(tmp_path))
    (tmp_path / "0000" / "frames").rename(tmp_path / "0000" / "depths")
    with pytest.raises(DatasetError, match=r"frames is missing. It holds the frames of 0000\.npy"):
        read(Kubric(tmp_path))


def test_a_damaged_frame_is_an_error(tmp_path):
    make_sequence(tmp_path, "0000")
    (tmp_path / "0000" / "frames" / "004.png").write_bytes(b"damaged")
    with pytest.raises(VideoError, match=r"004\.png"):
        read(Kubric(tmp_path))


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_a_hostile_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sequence(tmp_path, "0000", coords=Hostile())
    with pytest.raises(UnsafeFileError, match=r"0000\.npy asks for .*system"):
        read(Kubric(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "must hold a dictionary, got list"),
        ({"video": 1}, "lacks occluded, target_points; it holds video"),
        (movi_f(video=frames()), "video must be of type floating, got uint8"),
        (movi_f(video=frames() * 1.0), r"video must lie in -1\.\.1, got 0\.\.200"),
        (movi_f(video=np.full((FRAMES, 4, 4, 3), np.nan)), r"video must lie in -1\.\.1"),
        (movi_f(target_points=points()[:, :, 0]), r"points must have the shape \(N, T, 2\)"),
        (movi_f(target_points=points()[:, :5]), r"hidden must have .*Other arrays say N = 2, T = 5"),
        (movi_f(target_points=points()[:, :5], occluded=HIDDEN[:, :5]), "tracks of 5 frames, but there are 11 frames"),
        (movi_f(target_points=[[1], [1, 2]]), "points is not an array"),
    ],
)
def test_files_that_are_laid_out_differently_are_refused(tmp_path, content, message):
    save(tmp_path / "0000.npy", content)
    with pytest.raises(DatasetError, match=rf"0000\.npy.*{message}"):
        read(KubricMoviF(tmp_path))
