"""Dynamic Replica: a small split in the published layout, made here."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointloom.datasets.dynamic_replica import DynamicReplica, Evaluated, dynamic_replica
from pointloom.datasets.registry import open_dataset
from pointloom.errors import DatasetError, UnsafeFileError

FRAMES, WIDTH, HEIGHT, POINTS = 12, 20, 10, 5
VISIBLE = np.ones((POINTS, FRAMES), bool)
VISIBLE[1, 3] = False  # visible in 11 frames
VISIBLE[2, 3:5] = False  # in 10: left out


def positions(points: int = POINTS) -> np.ndarray:
    """Point n is at x = n + t / 100, y = n."""
    n, t = np.mgrid[:points, :FRAMES]
    return np.stack([n + t / 100, n], axis=-1).astype(np.float32)


def image(t: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (20 * t, 0, 7), np.uint8)


def frame_file(t: int, **change: Any) -> dict[str, Any]:
    content = {
        "img": torch.from_numpy(image(t)),
        "traj_2d": torch.from_numpy(np.concatenate([positions()[:, t], np.full((POINTS, 1), 9, np.float32)], axis=1)),
        "verts_inds_vis": torch.from_numpy(VISIBLE[:, t]),
        "traj_3d_world": torch.zeros(POINTS, 3),
    }
    return {**content, **change}


def annotation(sequence: str, camera: str, t: int, path: str) -> dict[str, Any]:
    return {
        "sequence_name": sequence,
        "camera_name": camera,
        "frame_number": t,
        "image": {"path": path.replace("pth", "png"), "size": [HEIGHT, WIDTH]},
        "trajectories": {"path": path, "anything": 1},
        "unknown": None,
    }


def write_annotations(folder: Path, records: Any, split: str = "valid") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"frame_annotations_{split}.jgz").write_bytes(gzip.compress(json.dumps(records).encode()))


def make_split(top: Path, split: str = "valid", sequences: tuple[str, ...] = ("room",)) -> Path:
    """Frames of the left and of the right camera take turns; those of the right have no files."""
    folder = top / split
    records = []
    for sequence in sequences:
        for t in range(FRAMES):
            left = f"{sequence}_left/trajectories/{t:06}.pth"
            file = folder / left
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(frame_file(t), file)
            records.append(annotation(sequence, "right", t, f"{sequence}_right/trajectories/{t:06}.pth"))
            records.append(annotation(sequence, "left", t, left))
    write_annotations(folder, records, split)
    return folder


def replace_frame(folder: Path, t: int, **change: Any) -> None:
    torch.save(frame_file(t, **change), folder / f"room_left/trajectories/{t:06}.pth")


def read(reader: DynamicReplica) -> Any:
    (clip,) = reader
    return clip


def tracks_of(clip: Any) -> list[int]:
    """Which points the tracks of a clip are: y says it."""
    return sorted(clip.xy[:, 0, 1].astype(int).tolist())


def test_frames_of_the_left_camera_are_read_in_the_order_of_the_annotations(tmp_path):
    make_split(tmp_path)
    clip = read(dynamic_replica(tmp_path))
    assert clip.name == "room"
    np.testing.assert_array_equal(clip.frames, [image(t) for t in range(FRAMES)])
    assert clip.frames.dtype == np.uint8


def test_convention_positions_are_taken_as_they_are(tmp_path):
    """CoTracker's evaluation gives them to a model whose pixel centres are integers, as ours are."""
    make_split(tmp_path)
    clip = read(dynamic_replica(tmp_path))
    n = clip.xy[:, 0, 1].astype(int)
    np.testing.assert_array_equal(clip.xy, positions()[n])
    np.testing.assert_array_equal(clip.visible, VISIBLE[n])
    assert clip.valid.all()


def test_tracks_that_are_visible_in_ten_frames_or_fewer_are_left_out(tmp_path):
    make_split(tmp_path)
    assert tracks_of(read(dynamic_replica(tmp_path))) == [0, 1, 3, 4]


def test_a_point_outside_the_frame_is_not_visible(tmp_path):
    """The frame is 20 x 10; the last pixel centre is at (19, 9)."""
    folder = make_split(tmp_path)
    xy = positions()[:, 0].copy()
    xy[0], xy[1], xy[3], xy[4] = (19, 9), (19.01, 9), (-0.01, 3), (np.nan, 4)
    replace_frame(folder, 0, traj_2d=torch.from_numpy(xy))
    clip = read(DynamicReplica(tmp_path, evaluated=Evaluated(visible_above=9)))
    n = clip.xy[:, 1, 1].astype(int)
    assert dict(zip(n.tolist(), clip.visible[:, 0].tolist(), strict=True)) == {
        0: True,
        1: False,
        2: True,
        3: False,
        4: False,
    }
    assert clip.valid[n == 4, 0].tolist() == [False]
    assert clip.valid[n != 4].all()
    assert np.isfinite(clip.xy).all()


def test_only_so_many_frames_and_tracks_are_read(tmp_path):
    folder = make_split(tmp_path)
    (folder / "room_left/trajectories/000011.pth").unlink()
    part = DynamicReplica(tmp_path, evaluated=Evaluated(frames=11, tracks=3, visible_above=0))
    assert read(part).xy.shape == (3, 11, 2)


def test_tracks_are_drawn_by_a_seed(tmp_path):
    make_split(tmp_path)

    def drawn(seed: int) -> list[int]:
        return tracks_of(read(DynamicReplica(tmp_path, evaluated=Evaluated(tracks=2, visible_above=0, seed=seed))))

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(5)}) > 1


def test_the_split_is_found_by_its_folder_or_by_the_one_above(tmp_path):
    folder = make_split(tmp_path, "test")
    for path in (folder, tmp_path, str(tmp_path)):
        assert DynamicReplica(path, split="test").names == ("room",)


def test_sequences_are_read_one_at_a_time(tmp_path):
    folder = make_split(tmp_path, sequences=("room", "attic"))
    (folder / "attic_left/trajectories/000003.pth").write_bytes(b"damaged")
    reader = dynamic_replica(tmp_path)
    assert len(reader) == 2
    clips = iter(reader)
    assert next(clips).name == "room"
    with pytest.raises((DatasetError, UnsafeFileError), match=r"000003\.pth .* damaged"):
        next(clips)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_colours_may_be_stored_as_any_whole_numbers(tmp_path, kind):
    folder = make_split(tmp_path)
    replace_frame(folder, 0, img=torch.from_numpy(image(0)).to(kind))
    assert read(dynamic_replica(tmp_path)).frames.dtype == np.uint8


def test_it_is_known_by_name(tmp_path):
    make_split(tmp_path)
    assert [clip.name for clip in open_dataset(f"dynamic-replica:{tmp_path}")] == ["room"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"no frame_annotations_valid\.jgz in .* the folder of the split valid"):
        dynamic_replica(tmp_path)


def test_missing_frames_are_counted_and_the_first_is_named(tmp_path):
    folder = make_split(tmp_path)
    for t in (5, 7):
        (folder / f"room_left/trajectories/{t:06}.pth").unlink()
    with pytest.raises(DatasetError, match=r"sequence room lacks 2 of 12 frames; the first one is .*000005\.pth"):
        read(dynamic_replica(tmp_path))


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"[{")], ids=["gzip", "json"])
def test_damaged_annotations_are_refused(tmp_path, content):
    (tmp_path / "frame_annotations_valid.jgz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"frame_annotations_valid\.jgz is damaged"):
        dynamic_replica(tmp_path)


@pytest.mark.parametrize("records", [3, [3], [{"camera_name": "left"}]], ids=["number", "numbers", "without names"])
def test_annotations_of_another_kind_are_refused(tmp_path, records):
    write_annotations(tmp_path, records)
    with pytest.raises(DatasetError, match="is not a list of frames"):
        dynamic_replica(tmp_path)


def test_annotations_without_the_left_camera_are_refused(tmp_path):
    write_annotations(tmp_path, [annotation("room", "right", 0, "a.pth")])
    with pytest.raises(DatasetError, match="lists no frame of the left camera"):
        dynamic_replica(tmp_path)


@pytest.mark.parametrize("path", ["../outside.pth", "/etc/outside.pth"])
def test_annotations_do_not_lead_out_of_the_folder(tmp_path, path):
    write_annotations(tmp_path, [annotation("room", "left", 0, path)])
    with pytest.raises(UnsafeFileError, match="lies outside"):
        dynamic_replica(tmp_path)


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_a_hostile_file_is_refused(tmp_path, monkeypatch):
    folder = make_split(tmp_path)
    monkeypatch.chdir(tmp_path)
    replace_frame(folder, 2, meta=Hostile())
    with pytest.raises(UnsafeFileError, match=r"000002\.pth asks for more than tensors"):
        read(dynamic_replica(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img": torch.full((HEIGHT, WIDTH, 3), 0.5)}, r"img must hold whole numbers in 0\.\.255"),
        ({"img": torch.full((HEIGHT, WIDTH, 3), 256)}, "img must hold whole numbers"),
        ({"img": [1]}, "img must be a tensor, got list"),
        ({"img": torch.zeros(HEIGHT, WIDTH)}, r"img must have the shape \(H, W, 3\)"),
        (
            {"img": torch.zeros(HEIGHT, WIDTH + 1, 3)},
            r"an image of the shape \(10, 21, 3\); the first frame of room has",
        ),
        ({"traj_2d": torch.zeros(POINTS, 1)}, r"traj_2d must have the shape \(N, 2\)"),
        ({"traj_2d": torch.zeros(POINTS + 1, 2)}, r"verts_inds_vis must have .*Other arrays say .*N = 6"),
        (
            {"traj_2d": torch.zeros(POINTS + 1, 2), "verts_inds_vis": torch.zeros(POINTS + 1, dtype=torch.bool)},
            "has 6 points and .* has 5",
        ),
        ({"verts_inds_vis": torch.zeros(POINTS)}, "verts_inds_vis must be of type bool"),
    ],
)
def test_frames_that_are_laid_out_differently_are_refused(tmp_path, change, message):
    folder = make_split(tmp_path)
    replace_frame(folder, 2, **change)
    with pytest.raises(DatasetError, match=rf"000002\.pth.*{message}"):
        read(dynamic_replica(tmp_path))


def test_a_frame_without_tracks_says_what_it_lacks(tmp_path):
    folder = make_split(tmp_path)
    torch.save({"img": torch.zeros(1)}, folder / "room_left/trajectories/000000.pth")
    with pytest.raises(DatasetError, match="lacks traj_2d, verts_inds_vis; it holds img"):
        read(dynamic_replica(tmp_path))
    torch.save([1], folder / "room_left/trajectories/000000.pth")
    with pytest.raises(DatasetError, match="must hold a dictionary, got list"):
        read(dynamic_replica(tmp_path))
