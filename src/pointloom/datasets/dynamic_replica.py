"""Dynamic Replica: rendered people and animals in rooms (Karaev et al. 2023), the part on which tracking is evaluated.

    <split>/frame_annotations_<split>.jgz   gzip of JSON, a list of frames: sequence_name, camera_name, trajectories
    <split>/<trajectories.path>             one torch file a frame: img (H, W, 3); traj_2d (N, 2 or more) x, y in
                                            pixels; verts_inds_vis (N), true where the point can be seen

As in CoTracker's evaluation: left camera, the first 300 frames of each sequence, at most 256 tracks, chosen at random,
of which those stay that are visible in more than 10 frames; a point outside the frame cannot be seen. CoTracker draws
its tracks inside a loading process, so that its set cannot be repeated: ours is drawn from a seed. Positions are taken
as that evaluation takes them, (0, 0) being the centre of the first pixel.
"""

from __future__ import annotations

import gzip
import json
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.layout import Layout, check_layout, require
from pointloom.datasets.registry import register
from pointloom.errors import DatasetError, UnsafeFileError

CAMERA = "left"
FRAME: Layout = {"img": (np.uint8, "HW3"), "traj_2d": (np.floating, "N2"), "verts_inds_vis": (np.bool_, "N")}


@dataclass(frozen=True)
class Evaluated:
    """Which part of each sequence is read: see the top of this file.

    frames         the first so many
    tracks         at most so many, drawn at random with `seed`
    visible_above  tracks that are visible in so many frames or fewer are left out
    """

    frames: int = 300
    tracks: int = 256
    visible_above: int = 10
    seed: int = 0


class DynamicReplica:
    """The sequences of one split, in the order of the file of annotations, read one at a time.

    `path` is the folder of the split, or the one above it. `names` are the sequences.
    """

    def __init__(self, path: str | PathLike[str], *, split: str = "valid", evaluated: Evaluated | None = None) -> None:
        self.evaluated = evaluated or Evaluated()
        self.annotations = _find_annotations(Path(path), split)
        self._frames = _frame_files(self.annotations)
        self.names = tuple(self._frames)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.names)

    def __iter__(self) -> Iterator[AnnotatedClip]:
        """Read the sequences, one after the other."""
        return (self._read(name) for name in self.names)

    def _read(self, name: str) -> AnnotatedClip:
        files = self._frames[name][: self.evaluated.frames]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise DatasetError(
                f"sequence {name} lacks {len(missing)} of {len(files)} frames; the first one is {missing[0]}. "
                f"Is the download complete and unpacked?"
            )
        first = _read_frame(files[0])
        chosen = np.random.default_rng(self.evaluated.seed).permutation(len(first.xy))[: self.evaluated.tracks]
        frames = np.empty((len(files), *first.image.shape), np.uint8)
        xy = np.empty((len(chosen), len(files), 2), np.float32)
        visible = np.empty((len(chosen), len(files)), bool)
        for t, file in enumerate(files):
            frame = _read_frame(file) if t else first
            if len(frame.xy) != len(first.xy) or frame.image.shape != first.image.shape:
                raise DatasetError(
                    f"{file} has {len(frame.xy)} points and an image of the shape {frame.image.shape}; "
                    f"the first frame of {name} has {len(first.xy)} and {first.image.shape}."
                )
            frames[t], xy[:, t], visible[:, t] = frame.image, frame.xy[chosen], frame.visible[chosen]
        return _clip(name, frames, xy, visible, self.evaluated.visible_above)


@register(
    "dynamic-replica",
    summary="rendered people and animals in rooms, split valid",
    licence="see its publisher",
    citation="Karaev et al. 2023, arXiv:2305.02296",
)
def dynamic_replica(path: Path) -> DynamicReplica:
    """Open the split `valid`, on which trackers are compared."""
    return DynamicReplica(path)


def _clip(name: str, frames: np.ndarray, xy: np.ndarray, visible: np.ndarray, visible_above: int) -> AnnotatedClip:
    height, width = frames.shape[1:3]
    known = np.isfinite(xy).all(axis=-1)
    in_frame = ((xy >= 0) & (xy <= (width - 1, height - 1))).all(axis=-1)  # false also for what is no number
    visible = visible & in_frame
    kept = visible.sum(axis=1) > visible_above
    return AnnotatedClip(name, frames, np.where(known[..., None], xy, np.float32(0))[kept], visible[kept], known[kept])


def _find_annotations(path: Path, split: str) -> Path:
    file = f"frame_annotations_{split}.jgz"
    found = next((p for p in (path / file, path / split / file) if p.is_file()), None)
    if found is None:
        raise DatasetError(f"there is no {file} in {path} or in {path / split}. Give the folder of the split {split}.")
    return found


def _frame_files(annotations: Path) -> dict[str, list[Path]]:
    """Files of the left camera's frames, in the order of the annotations, for each sequence."""
    try:
        records = json.loads(gzip.decompress(annotations.read_bytes()))
        listed = [
            (str(r["sequence_name"]), str(r["trajectories"]["path"])) for r in records if r["camera_name"] == CAMERA
        ]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DatasetError(f"{annotations} is damaged: {error}. Is the download complete?") from error
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"{annotations} is not a list of frames with camera, sequence and tracks: {error}."
        ) from error
    top = annotations.parent.resolve()
    files: dict[str, list[Path]] = {}
    for sequence, path in listed:
        file = (top / path).resolve()
        if not file.is_relative_to(top):
            raise UnsafeFileError(f"{annotations} names the file {path}, which lies outside of {top}. It was not read.")
        files.setdefault(sequence, []).append(file)
    if not files:
        raise DatasetError(f"{annotations} lists no frame of the {CAMERA} camera.")
    return files


class _Frame(NamedTuple):
    image: UInt8[np.ndarray, "H W 3"]
    xy: Float32[np.ndarray, "N 2"]
    visible: Bool[np.ndarray, " N"]


def _read_frame(file: Path) -> _Frame:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{file} asks for more than tensors while it is read, or is damaged, so it was not read: {error}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{file} is damaged: {error}. Is the download complete?") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} must hold a dictionary, got {type(content).__name__}.")
    require(file, content, FRAME)
    arrays = {name: _to_array(file, name, content[name]) for name in FRAME}
    arrays["img"] = _to_bytes(file, arrays["img"])
    arrays["traj_2d"] = arrays["traj_2d"][..., :2]
    check_layout(file, arrays, FRAME)
    return _Frame(arrays["img"], arrays["traj_2d"].astype(np.float32), arrays["verts_inds_vis"])


def _to_array(file: Path, name: str, value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise DatasetError(f"{file}: {name} must be a tensor, got {type(value).__name__}.")
    return value.detach().numpy()


def _to_bytes(file: Path, image: np.ndarray) -> np.ndarray:
    """8-bit colours, of whatever type they are stored in."""
    with np.errstate(invalid="ignore"):  # what does not fit differs afterwards
        in_bytes = image.astype(np.uint8)
    if not np.array_equal(in_bytes, image):
        raise DatasetError(f"{file}: img must hold whole numbers in 0..255.")
    return in_bytes
