"""Kubric: rendered falling objects with exact tracks (Greff et al. 2022), in two layouts.

`kubric` as CoTracker3 published it (and the authors of CoTracker rendered it before), one folder a sequence:

    <name>/frames/000.png ...   the frames, in the order of their names
    <name>/<name>.npy           a pickled dictionary: coords (N, T, 2) x, y in pixels; visibility (N, T), which in spite
                                of its name is true where the point is hidden

`kubric_movi_f` as Kubric's own converter for point tracking gives it, one file a sequence:

    <name>.npy                  a pickled dictionary: video (T, H, W, 3) in -1..1, target_points (N, T, 2) x, y in
                                pixels, occluded (N, T), and query_points, which are not read

In both, pixels are raster: the centre of the first one is (0.5, 0.5). CoTracker3 was trained on these numbers as if it
were (0, 0), half a pixel off; this reader gives the true positions. Numbers that are no numbers mark a track as unknown
in that frame; a point outside the frame cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pointloom import geometry
from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.layout import Layout, as_array, check_layout, require
from pointloom.datasets.registry import register
from pointloom.datasets.safe_pickle import load_npy
from pointloom.errors import DatasetError
from pointloom.video import read_images

FRAMES = "frames"
TRACKS: Layout = {"points": (np.floating, "NT2"), "hidden": (np.bool_, "NT")}
LARGEST = 255  # of a colour in 8 bits


class Kubric:
    """The sequences of CoTracker3's layout, in the order of their names, each read when it is asked for."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.names = tuple(sorted(f.stem for f in self.path.glob("*/*.npy") if f.stem == f.parent.name))
        if not self.names:
            raise DatasetError(
                f"{self.path} holds no sequences. One is a folder such as 0000, with 0000.npy and a folder {FRAMES} in "
                f"it; unpack the archives first."
            )

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.names)

    def __iter__(self) -> Iterator[AnnotatedClip]:
        """Read the sequences, one after the other."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> AnnotatedClip:
        """Read a sequence."""
        name = self.names[index]
        file = self.path / name / f"{name}.npy"
        content = _dictionary(file, ("coords", "visibility"))
        folder = file.with_name(FRAMES)
        if not folder.is_dir():
            raise DatasetError(f"{folder} is missing. It holds the frames of {file.name}.")
        return _clip(file, name, read_images(folder), content["coords"], content["visibility"])


class KubricMoviF:
    """The sequences of the converter's layout, in the order of their names, each read when it is asked for."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.names = tuple(sorted(f.stem for f in self.path.glob("*.npy")))
        if not self.names:
            raise DatasetError(f"{self.path} holds no sequences. One is a file such as 0000.npy.")

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.names)

    def __iter__(self) -> Iterator[AnnotatedClip]:
        """Read the sequences, one after the other."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> AnnotatedClip:
        """Read a sequence."""
        name = self.names[index]
        file = self.path / f"{name}.npy"
        content = _dictionary(file, ("video", "target_points", "occluded"))
        frames = _to_bytes(file, as_array(file, "video", content["video"]))
        return _clip(file, name, frames, content["target_points"], content["occluded"])


@register(
    "kubric",
    summary="rendered falling objects, as CoTracker3 published them",
    licence="Apache-2.0",
    citation="Karaev et al. 2024, arXiv:2410.11831; Greff et al. 2022, arXiv:2203.03570",
)
def kubric(path: Path) -> Kubric:
    """Open the folder that holds the folders of the sequences."""
    return Kubric(path)


@register(
    "kubric-movi-f",
    summary="rendered falling objects, as Kubric's converter for point tracking gives them",
    citation="Greff et al. 2022, arXiv:2203.03570",
)
def kubric_movi_f(path: Path) -> KubricMoviF:
    """Open the folder that holds the files of the sequences."""
    return KubricMoviF(path)


def _dictionary(file: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    content = load_npy(file)
    if not isinstance(content, dict):
        raise DatasetError(f"{file} must hold a dictionary, got {type(content).__name__}.")
    require(file, content, wanted)
    return content


def _to_bytes(file: Path, video: Float[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """Colours in -1..1 as 0..255."""
    check_layout(file, {"video": video}, {"video": (np.floating, "THW3")})
    if not np.all(np.abs(video) <= 1):
        raise DatasetError(f"{file}: video must lie in -1..1, got {video.min():g}..{video.max():g}.")
    return np.rint((video + 1) * (LARGEST / 2)).astype(np.uint8)


def _clip(
    file: Path, name: str, frames: UInt8[np.ndarray, "T H W 3"], points: Float[Any, "N T 2"], hidden: Bool[Any, "N T"]
) -> AnnotatedClip:
    arrays = {"points": as_array(file, "points", points), "hidden": as_array(file, "hidden", hidden) != 0}
    check_layout(file, arrays, TRACKS)
    length = arrays["points"].shape[1]
    if len(frames) != length:
        raise DatasetError(f"{file} has tracks of {length} frames, but there are {len(frames)} frames.")
    known = np.isfinite(arrays["points"]).all(axis=-1)
    xy = np.where(known[..., None], geometry.from_raster(arrays["points"]), 0).astype(np.float32)
    size = frames.shape[2], frames.shape[1]
    return AnnotatedClip(name, frames, xy, ~arrays["hidden"] & known & geometry.inside(xy, size), known)
