"""TAP-Vid as it is published (Doersch et al. 2022): pickles of records, for DAVIS, RGB-Stacking and Kinetics.

A file holds a dictionary from names to records, or a list of records:

    video     (T, H, W, 3) uint8 RGB; in Kinetics T JPEG files, as bytes
    points    (N, T, 2) x, y as shares of the frame: (0, 0) its upper-left corner, (1, 1) its lower-right one
    occluded  (N, T) bool

Positions of hidden points are in the files, but nobody claims that they are right. In Kinetics the positions were moved
by half a pixel before they were stored; the benchmark takes the stored numbers as they are, and so does this reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from pointloom import geometry
from pointloom.datasets.clip import AnnotatedClip
from pointloom.datasets.layout import Layout, as_array, check_layout, require
from pointloom.datasets.registry import register
from pointloom.datasets.safe_pickle import load_pickle
from pointloom.errors import DatasetError

RECORD: Layout = {"video": (np.uint8, "THW3"), "points": (np.floating, "NT2"), "occluded": (np.bool_, "NT")}
CITATION = "Doersch et al. 2022, arXiv:2211.03726"
SHARD = re.compile(r"(\d+)_of_(\d+)\.pkl")


class TapVid:
    """The clips of pickles in TAP-Vid's layout, in the order of the files. One file is in memory at a time.

    A clip has the name that the file gives it, or the name of the file and its place in it.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)

    def __iter__(self) -> Iterator[AnnotatedClip]:
        """Read the clips, one after the other."""
        seen: set[str] = set()
        for file in self.files:
            records = _named_records(file)
            for name in list(records):
                if name in seen:
                    raise DatasetError(
                        f"{file} holds a clip {name!r}, as does a file before it. Is one of them a copy?"
                    )
                seen.add(name)
                yield read_record(f"{file}, {name}", name, records.pop(name))


@register(
    "tapvid-davis",
    summary="30 real videos with all kinds of motion",
    licence="annotations CC BY 4.0, videos Creative Commons as their makers chose",
    citation=CITATION,
)
def tapvid_davis(path: Path) -> TapVid:
    """Open TAP-Vid-DAVIS: `tapvid_davis.pkl`, or the folder that holds it."""
    return TapVid([find_file(path, "tapvid_davis.pkl")])


@register(
    "tapvid-rgb-stacking",
    summary="50 synthetic videos of a robot that stacks blocks",
    licence="CC BY 4.0",
    citation=CITATION,
)
def tapvid_rgb_stacking(path: Path) -> TapVid:
    """Open TAP-Vid-RGB-Stacking: `tapvid_rgb_stacking.pkl`, or the folder that holds it."""
    return TapVid([find_file(path, "tapvid_rgb_stacking.pkl")])


@register(
    "tapvid-kinetics",
    summary="about 1000 real videos of people",
    licence="annotations CC BY 4.0, videos under their own terms",
    citation=CITATION,
)
def tapvid_kinetics(path: Path) -> TapVid:
    """Open TAP-Vid-Kinetics: the folder with `0000_of_0010.pkl` and all the others, or one of these files."""
    files = find_files(path, "*_of_*.pkl", "0000_of_0010.pkl")
    if path.is_dir():
        _check_complete(files)
    return TapVid(files)


def find_file(path: Path, name: str) -> Path:
    """Return the file of that name in a folder, or in a folder of that name in it; or `path` if it is a file."""
    if path.is_file():
        return path
    candidates = (path / name, path / Path(name).stem / name)
    found = next((c for c in candidates if c.is_file()), None)
    if found is None:
        raise DatasetError(f"there is no {name} in {path}. Give that file, or the folder that holds it.")
    return found


def find_files(path: Path, pattern: str, example: str) -> list[Path]:
    """Return the files of a folder that fit a pattern, sorted by name; or `path` alone if it is a file."""
    if path.is_file():
        return [path]
    found = sorted(path.glob(pattern))
    if not found:
        raise DatasetError(f"there is no {pattern} in {path}. Give the folder that holds {example} and the others.")
    return found


def read_record(where: str, name: str, record: Any) -> AnnotatedClip:
    """Turn one record into a clip. `where` begins the message of an error."""
    if not isinstance(record, dict):
        raise DatasetError(f"{where}: a record is a dictionary, got {type(record).__name__}.")
    require(where, record, RECORD)
    arrays = {name: as_array(where, name, record[name]) for name in ("points", "occluded")}
    arrays["video"] = _frames(where, record["video"])
    check_layout(where, arrays, RECORD)
    _, height, width, _ = arrays["video"].shape
    xy = geometry.from_raster(arrays["points"] * np.array([width, height], np.float64)).astype(np.float32)
    known = np.isfinite(xy).all(axis=-1)
    return AnnotatedClip(
        name,
        arrays["video"],
        np.where(known[..., None], xy, np.float32(0)),
        ~arrays["occluded"] & known,
        known,
    )


def _frames(where: str, video: Any) -> np.ndarray:
    first = next(iter(video), None) if np.iterable(video) else None
    return decode_jpegs(where, video) if isinstance(first, bytes) else as_array(where, "video", video)


def decode_jpegs(where: str, files: Sequence[bytes]) -> UInt8[np.ndarray, "T H W 3"]:
    """Decode JPEG files of one size to RGB."""
    first = _decode(where, 0, files[0])
    frames = np.empty((len(files), *first.shape), np.uint8)
    for t, file in enumerate(files):
        frame = _decode(where, t, file) if t else first
        if frame.shape != first.shape:
            raise DatasetError(f"{where}: frame {t} has the shape {frame.shape}, the first one {first.shape}.")
        frames[t] = frame
    return frames


def _decode(where: str, t: int, file: bytes) -> UInt8[np.ndarray, "H W 3"]:
    try:
        image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # for no bytes at all
        image = None
    if image is None:
        raise DatasetError(f"{where}: frame {t} is not an image that can be read. Is the copy complete?")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _named_records(file: Path) -> dict[str, Any]:
    content = load_pickle(file)
    if isinstance(content, dict):
        return {str(name): record for name, record in content.items()}
    if isinstance(content, list):
        return {f"{file.stem}-{place:04}": record for place, record in enumerate(content)}
    raise DatasetError(f"{file} must hold a dictionary or a list of clips, got {type(content).__name__}.")


def _check_complete(files: Sequence[Path]) -> None:
    """Raise DatasetError unless the numbers in the names of all shards are there."""
    matches = [match for file in files if (match := SHARD.fullmatch(file.name))]
    for total in {match[2] for match in matches}:
        there = {int(match[1]) for match in matches if match[2] == total}
        missing = sorted(set(range(int(total))) - there)
        if missing:
            width = len(total)
            names = ", ".join(f"{i:0{width}}_of_{total}.pkl" for i in missing)
            raise DatasetError(
                f"{files[0].parent} lacks {len(missing)} of {int(total)} files: {names}. "
                f"To evaluate a part on purpose give a single file."
            )
