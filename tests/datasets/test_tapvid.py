"""TAP-Vid and RoboTAP: small pickles of each published layout, made here."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pointloom.datasets.registry import open_dataset
from pointloom.datasets.robotap import robotap
from pointloom.datasets.tapvid import TapVid, tapvid_davis, tapvid_kinetics, tapvid_rgb_stacking
from pointloom.errors import DatasetError, UnsafeFileError

FRAMES, WIDTH, HEIGHT, TRACKS = 3, 32, 16, 2


def frames(seed: int = 0) -> np.ndarray:
    """Even colours, red in front of the others, so that a JPEG keeps them and a change of channels shows."""
    colours = np.random.default_rng(seed).integers(0, 100, (FRAMES, 1, 1, 3)) + np.array([150, 0, 0])
    return np.broadcast_to(colours, (FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)


def record(seed: int = 0, kind: type = np.float32) -> dict[str, Any]:
    points = np.random.default_rng(seed).uniform(0, 1, (TRACKS, FRAMES, 2)).astype(kind)
    points[0, 0] = [0.5 / WIDTH, 0.5 / HEIGHT]
    return {"video": frames(seed), "points": points, "occluded": np.array([[0, 1, 0], [0, 0, 1]], bool)}


def jpegs(video: np.ndarray) -> list[bytes]:
    return [cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in video]


def kinetics_record(seed: int = 0) -> dict[str, Any]:
    return {**record(seed, np.float64), "video": np.array(jpegs(frames(seed)))}


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path


def only(reader: TapVid) -> Any:
    (clip,) = reader
    return clip


# --- each layout ------------------------------------------------------------------------------------------------------


def test_davis_is_a_dictionary_of_records(tmp_path):
    save(tmp_path / "tapvid_davis.pkl", {"goat": record(0), "camel": record(1)})
    clips = list(tapvid_davis(tmp_path))
    assert [clip.name for clip in clips] == ["goat", "camel"]
    np.testing.assert_array_equal(clips[1].frames, frames(1))
    assert clips[1].frames.dtype == np.uint8
    np.testing.assert_array_equal(clips[0].visible, ~record()["occluded"])
    assert clips[0].valid.all()
    assert clips[0].size == (WIDTH, HEIGHT)


def test_rgb_stacking_is_a_list_of_records(tmp_path):
    save(tmp_path / "tapvid_rgb_stacking.pkl", [record(0), record(1)])
    clips = list(tapvid_rgb_stacking(tmp_path))
    assert [clip.name for clip in clips] == ["tapvid_rgb_stacking-0000", "tapvid_rgb_stacking-0001"]
    np.testing.assert_array_equal(clips[1].frames, frames(1))


@pytest.mark.parametrize("kind", ["fixed width", "objects", "list"])
def test_kinetics_holds_jpeg_files_in_shards(tmp_path, kind):
    """NumPy drops zeros at the end of bytes of a fixed width; a JPEG file does not end in one."""
    record = kinetics_record()
    video = {"fixed width": record["video"], "objects": record["video"].astype(object), "list": jpegs(frames())}[kind]
    save(tmp_path / "0000_of_0002.pkl", [{**record, "video": video}, kinetics_record(1)])
    save(tmp_path / "0001_of_0002.pkl", [kinetics_record(2)])
    clips = list(tapvid_kinetics(tmp_path))
    assert [clip.name for clip in clips] == ["0000_of_0002-0000", "0000_of_0002-0001", "0001_of_0002-0000"]
    for seed, clip in enumerate(clips):
        np.testing.assert_allclose(clip.frames.astype(int), frames(seed), atol=3)  # in order, and red is red
    assert clips[0].frames.dtype == np.uint8


def test_a_shard_of_kinetics_may_be_a_dictionary(tmp_path):
    file = save(tmp_path / "0000_of_0010.pkl", {"a": kinetics_record()})
    assert only(tapvid_kinetics(file)).name == "a"


def test_robotap_merges_its_splits(tmp_path):
    save(tmp_path / "robotap_split1.pkl", {"c": record(2)})
    save(tmp_path / "robotap_split0.pkl", {"b": record(0), "a": record(1)})
    assert [clip.name for clip in robotap(tmp_path)] == ["b", "a", "c"]


@pytest.mark.parametrize("layout", ["the file", "its folder", "the folder above"])
def test_a_data_set_is_found_by_its_file_or_by_a_folder(tmp_path, layout):
    file = save(tmp_path / "tapvid_davis" / "tapvid_davis.pkl", {"goat": record()})
    path = {"the file": file, "its folder": file.parent, "the folder above": tmp_path}[layout]
    assert only(tapvid_davis(path)).name == "goat"


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("tapvid-davis", "tapvid_davis.pkl", {"goat": record()}),
        ("tapvid-rgb-stacking", "tapvid_rgb_stacking.pkl", [record()]),
        ("tapvid-kinetics", "0000_of_0001.pkl", [kinetics_record()]),
        ("robotap", "robotap_split0.pkl", {"a": record()}),
    ],
)
def test_each_is_known_by_name(tmp_path, name, file, content):
    save(tmp_path / file, content)
    assert len(list(open_dataset(f"{name}:{tmp_path}"))) == 1


# --- coordinates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_convention_positions_are_shares_of_the_frame_and_ours_count_from_pixel_centres(tmp_path, kind):
    """The centre of the first pixel of 32 x 16 is stored as (0.5/32, 0.5/16); a share s is 32 s - 0.5 of ours."""
    clip = only(TapVid([save(tmp_path / "a.pkl", {"a": record(kind=kind)})]))
    np.testing.assert_allclose(clip.xy[0, 0], [0, 0], atol=1e-6)
    np.testing.assert_allclose(clip.xy, record(kind=kind)["points"] * [WIDTH, HEIGHT] - 0.5, atol=1e-5)
    assert clip.xy.dtype == np.float32


def test_convention_kinetics_is_taken_as_stored(tmp_path):
    """Although half a native pixel was subtracted before storing: published numbers are measured on these."""
    clip = only(tapvid_kinetics(save(tmp_path / "0000_of_0010.pkl", [kinetics_record()])))
    np.testing.assert_allclose(clip.xy, kinetics_record()["points"] * [WIDTH, HEIGHT] - 0.5, atol=1e-5)


def test_reading_twice_gives_the_same(tmp_path):
    reader = TapVid([save(tmp_path / "a.pkl", {"a": record()})])
    np.testing.assert_array_equal(only(reader).xy, only(reader).xy)


def test_a_record_that_is_read_is_not_changed():
    from pointloom.datasets.tapvid import read_record

    given = kinetics_record()
    read_record("here", "a", given)
    for name, value in kinetics_record().items():
        np.testing.assert_array_equal(given[name], value)


def test_a_position_that_is_no_number_is_not_valid(tmp_path):
    broken = record()
    broken["points"][1, 0] = np.nan
    clip = only(TapVid([save(tmp_path / "a.pkl", {"a": broken})]))
    assert clip.valid.tolist() == [[True, True, True], [False, True, True]]
    assert not clip.visible[1, 0]
    assert np.isfinite(clip.xy).all()


def test_a_clip_without_points_is_read(tmp_path):
    empty = {**record(), "points": np.zeros((0, FRAMES, 2), np.float32), "occluded": np.zeros((0, FRAMES), bool)}
    assert only(TapVid([save(tmp_path / "a.pkl", {"a": empty})])).xy.shape == (0, FRAMES, 2)


def test_files_are_opened_only_when_their_clips_are_asked_for(tmp_path):
    save(tmp_path / "robotap_split0.pkl", {"a": record()})
    (tmp_path / "robotap_split1.pkl").write_bytes(b"damaged")
    clips = iter(robotap(tmp_path))
    assert next(clips).name == "a"
    with pytest.raises(DatasetError, match=r"robotap_split1\.pkl is damaged"):
        next(clips)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "file"),
    [
        (tapvid_davis, "tapvid_davis.pkl"),
        (tapvid_rgb_stacking, "tapvid_rgb_stacking.pkl"),
        (tapvid_kinetics, r"\*_of_\*.pkl"),
        (robotap, r"robotap_split\*.pkl"),
    ],
)
def test_a_folder_without_the_files_is_refused(tmp_path, reader, file):
    with pytest.raises(DatasetError, match=rf"there is no {file} in .* Give"):
        reader(tmp_path)


def test_missing_shards_are_named(tmp_path):
    for shard in (0, 2):
        save(tmp_path / f"{shard:04}_of_0004.pkl", [kinetics_record()])
    with pytest.raises(DatasetError, match=r"lacks 2 of 4 files: 0001_of_0004\.pkl, 0003_of_0004\.pkl\. To evaluate"):
        tapvid_kinetics(tmp_path)
    assert only(tapvid_kinetics(tmp_path / "0002_of_0004.pkl")).name == "0002_of_0004-0000"


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    for split in (0, 1):
        save(tmp_path / f"robotap_split{split}.pkl", {"a": record()})
    with pytest.raises(DatasetError, match=r"split1\.pkl holds a clip 'a', as does a file before it"):
        list(robotap(tmp_path))


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_a_hostile_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "tapvid_davis.pkl", {"a": {**record(), "video": Hostile()}})
    with pytest.raises(UnsafeFileError, match=r"tapvid_davis\.pkl asks for .*system"):
        list(tapvid_davis(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "must hold a dictionary or a list of clips, got int"),
        ({"a": [1]}, "a record is a dictionary, got list"),
        ({"a": {"video": frames()}}, "lacks occluded, points; it holds video"),
        ({"a": {**record(), "video": frames().astype(np.float32)}}, "video must be of type uint8, got float32"),
        ({"a": {**record(), "video": 3}}, "video must be of type uint8"),
        (
            {"a": {**record(), "video": frames()[..., 0]}},
            r"video must have the shape \(T, H, W, 3\), got \(3, 16, 32\)",
        ),
        ({"a": {**record(), "video": frames()[:2]}}, r"points must have .*got \(2, 3, 2\). Other arrays say T = 2"),
        ({"a": {**record(), "points": [[1], [1, 2]]}}, "points is not an array"),
        ({"a": {**record(), "occluded": np.zeros((2, 3))}}, "occluded must be of type bool, got float64"),
        ({"a": {**record(), "occluded": np.zeros((1, 3), bool)}}, "occluded must have .* Other arrays say"),
        ({"a": {**record(), "video": [b"no image"] * 3}}, "frame 0 is not an image that can be read"),
        ({"a": {**record(), "video": [*jpegs(frames())[:2], b""]}}, "frame 2 is not an image"),
        (
            {"a": {**record(), "video": [*jpegs(frames())[:2], *jpegs(frames()[:1, :8])]}},
            r"frame 2 has the shape \(8, 32, 3\), the first one \(16, 32, 3\)",
        ),
    ],
)
def test_records_that_are_laid_out_differently_are_refused(tmp_path, content, message):
    with pytest.raises(DatasetError, match=rf"a\.pkl.*{message}"):
        list(TapVid([save(tmp_path / "a.pkl", content)]))
