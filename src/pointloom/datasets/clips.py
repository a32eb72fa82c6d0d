"""Annotated clips in a folder: real video with the true tracks of some points, or with the mask of one object.

One clip is a folder. Folders may be grouped to any depth; the name of a clip is its path below the top, as in
`markers/desk`, and its group is what comes before the last slash.

    <group>/<name>/video.mp4
    <group>/<name>/tracks.npz    points (N,T,2) raster pixels of the video, visible (N,T), valid (N,T), query_frame (N)
                                 and for joints of animals: area (T) pixels of the animal, joint (N) which joint it is
    <group>/<name>/masks.npz     shape (3) = (T,H,W), masks: bits of the mask (T,H,W), packed with NumPy's packbits

Where `valid` is false the annotation says nothing, not even that the point is hidden. `query_frame` is the first frame
in which the point is visible.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from difflib import get_close_matches
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pointloom import geometry
from pointloom.datasets.clip import AnnotatedClip, Clip, JointClip, MaskedClip
from pointloom.datasets.layout import Layout, check_layout, require
from pointloom.datasets.registry import register
from pointloom.errors import DatasetError
from pointloom.video import open_video

VIDEO, TRACKS, MASKS = "video.mp4", "tracks.npz", "masks.npz"

TRACK_ARRAYS: Layout = {
    "points": (np.floating, "NT2"),
    "visible": (np.bool_, "NT"),
    "valid": (np.bool_, "NT"),
    "query_frame": (np.integer, "N"),
}
JOINT_ARRAYS: Layout = {"area": (np.floating, "T"), "joint": (np.integer, "N")}
MASK_ARRAYS: Layout = {"shape": (np.integer, "3"), "masks": (np.uint8, "B")}


class ClipsFolder:
    """The annotated clips below a folder, in alphabetical order, read one at a time.

    names         clips with tracks: `for clip in folder`, `folder["markers/desk"]`
    masked_names  clips with masks: `for clip in folder.masked()`, `folder.read_masked("masks/goat")`
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise DatasetError(f"{self.path} is not a folder. Give the folder that holds the clips.")
        self.names = self._find(TRACKS)
        self.masked_names = self._find(MASKS)
        if not self.names and not self.masked_names:
            raise DatasetError(
                f"{self.path} holds no clips: no folder below it has a file {TRACKS} or {MASKS}. "
                f"A clip is a folder with {VIDEO} and one of these."
            )

    def __len__(self) -> int:
        """Return the number of clips with tracks."""
        return len(self.names)

    def __iter__(self) -> Iterator[AnnotatedClip]:
        """Read the clips with tracks, one after the other."""
        return (self[name] for name in self.names)

    def __getitem__(self, name: str) -> AnnotatedClip:
        """Read a clip with tracks; a `JointClip` if it says what its joints are."""
        file = self._file(name, TRACKS, self.names)
        arrays = _load(file, TRACK_ARRAYS, JOINT_ARRAYS)
        visible, valid = arrays["visible"], arrays["valid"]
        _check_tracks(file, visible, valid, arrays["query_frame"])
        frames = _frames(file, length=visible.shape[1])
        xy = geometry.from_raster(arrays["points"].astype(np.float32))
        if "joint" not in arrays:
            return AnnotatedClip(name, frames, xy, visible, valid)
        area, joint = arrays["area"].astype(np.float32), arrays["joint"].astype(np.int32)
        return JointClip(name, frames, xy, visible, valid, area, joint)

    def masked(self) -> Iterator[MaskedClip]:
        """Read the clips with masks, one after the other."""
        return (self.read_masked(name) for name in self.masked_names)

    def read_masked(self, name: str) -> MaskedClip:
        """Read a clip with masks."""
        file = self._file(name, MASKS, self.masked_names)
        arrays = _load(file, MASK_ARRAYS)
        shape = tuple(int(side) for side in arrays["shape"])
        bits = math.prod(shape)
        if min(shape) < 0 or math.ceil(bits / 8) != arrays["masks"].size:
            raise DatasetError(f"{file}: masks of shape {shape} do not fill {arrays['masks'].size} bytes of bits.")
        masks = np.unpackbits(arrays["masks"], count=bits).reshape(shape).astype(bool)
        frames = _frames(file, length=shape[0])
        if frames.shape[:3] != shape:
            raise DatasetError(
                f"{file}: masks are {shape[2]} x {shape[1]} pixels, the video {frames.shape[2]} x {frames.shape[1]}. "
                f"Masks must have the size of the video."
            )
        return MaskedClip(name, frames, masks)

    def _find(self, file: str) -> tuple[str, ...]:
        return tuple(sorted(p.parent.relative_to(self.path).as_posix() for p in self.path.glob(f"*/**/{file}")))

    def _file(self, name: str, file: str, names: tuple[str, ...]) -> Path:
        if name not in names:
            near = get_close_matches(name, names, n=3) or names[:3]
            raise DatasetError(
                f"{self.path} holds no clip {name!r} with {file}; it holds {len(names)} others. "
                + (f"Did you mean {', '.join(near)}?" if near else "")
            )
        return self.path / name / file


@register("clips", summary="folders of annotated clips: video.mp4 with tracks.npz or masks.npz")
class AllClips:
    """Every clip below a folder: those with tracks, then those with masks."""

    def __init__(self, path: Path) -> None:
        self._folder = ClipsFolder(path)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._folder.names) + len(self._folder.masked_names)

    def __iter__(self) -> Iterator[Clip]:
        """Read the clips, one after the other."""
        yield from self._folder
        yield from self._folder.masked()


def group_of(name: str) -> str:
    """Return the group of a clip: `markers` for `markers/desk`, nothing for a clip at the top."""
    return name.rpartition("/")[0]


def _frames(annotation: Path, *, length: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Read the video beside a file of annotations."""
    path = annotation.with_name(VIDEO)
    if not path.is_file():
        raise DatasetError(f"{path} is missing. {annotation.name} belongs to a video of that name beside it.")
    with open_video(path) as video:
        frames = video[:]
    if len(frames) != length:
        raise DatasetError(f"{path} has {len(frames)} frames, but {annotation.name} is for {length}.")
    return frames


def _load(file: Path, wanted: Layout, optional: Layout | None = None) -> dict[str, np.ndarray]:
    """Read the wanted arrays and, if one of them is there, the optional ones. Types and shapes are as laid out."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            names = set(archive.files)
            layout = {**wanted, **optional} if optional and names & optional.keys() else wanted
            require(file, names, layout)
            arrays = {name: archive[name] for name in layout}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{file} is not a file of arrays, or it is damaged: {error}.") from error
    check_layout(file, arrays, layout)
    return arrays


def _check_tracks(file: Path, visible: np.ndarray, valid: np.ndarray, query_frame: np.ndarray) -> None:
    """Refuse tracks that contradict themselves: whoever made them meant something else by these names."""
    contradictory = (visible & ~valid).any(axis=1)
    if contradictory.any():
        raise DatasetError(
            f"{file}: track {contradictory.argmax()} is visible in a frame in which it is not valid. "
            f"A point can be visible only where the annotation is valid."
        )
    seen = visible.any(axis=1)
    first = visible.argmax(axis=1) if visible.size else np.zeros(len(visible), int)
    wrong = seen & (query_frame != first)
    if wrong.any():
        n = wrong.argmax()
        raise DatasetError(
            f"{file}: track {n} has query_frame {query_frame[n]}, but is first visible in frame {first[n]}. "
            f"The query frame is the first frame in which the point is visible."
        )
