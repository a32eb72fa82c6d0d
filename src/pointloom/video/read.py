"""Opening videos: one value, `Video`, whatever the frames come from.

video = open_video("clip.mp4")          a file, a folder of images, "frames/*.png", or an array
video[0], video[10:20]                  uint8 RGB, (H, W, 3) and (T, H, W, 3)
for frame in video: ...                 one frame in memory at a time
"""

from __future__ import annotations

import glob
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import SupportsIndex, overload

import numpy as np
from jaxtyping import Float64, UInt8

from pointloom.errors import OptionError, VideoError
from pointloom.video.access import Address, protocol_of
from pointloom.video.file import FileSource
from pointloom.video.images import IMAGE_SUFFIXES, ImageSource, in_natural_order
from pointloom.video.source import DEFAULT_FPS, ArraySource, Limits, Source

GLOB_CHARACTERS = frozenset("*?[")


class Video:
    """Frames in order, decoded when asked for.

    Made by `open_video`. Frames are uint8 RGB, turned as a person would see them, and always new arrays. Any frame can
    be read at any time; in order is fastest. Memory does not grow with the length of the video.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._is_closed = False

    @property
    def name(self) -> str:
        """Name of the file or folder, `array` for an array."""
        return self._source.name

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self._source.size

    @property
    def seconds(self) -> Float64[np.ndarray, " T"]:
        """When each frame is shown, in seconds of the file's own clock: it may start anywhere and be irregular."""
        return self._source.seconds

    @property
    def fps(self) -> float:
        """Nominal frames a second. Where it matters when a frame is shown, use `seconds`."""
        return self._source.fps

    def __len__(self) -> int:
        """Return the number of frames. It becomes smaller, with a warning, if a fault is met while reading."""
        return len(self._source.seconds)

    @overload
    def __getitem__(self, index: SupportsIndex) -> UInt8[np.ndarray, "H W 3"]: ...
    @overload
    def __getitem__(self, index: slice) -> UInt8[np.ndarray, "T H W 3"]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> UInt8[np.ndarray, "..."]:
        """Return one frame (H, W, 3), or several (T, H, W, 3). Negative numbers count from the end."""
        if not isinstance(index, slice):
            return self._one(operator.index(index))
        wanted = range(*index.indices(len(self)))
        ascending = wanted if wanted.step > 0 else wanted[::-1]
        width, height = self.size
        frames = np.empty((len(ascending), height, width, 3), np.uint8)
        read = 0
        for frame in self._read(ascending):
            frames[read] = frame
            read += 1
        return frames[:read] if wanted.step > 0 else frames[:read][::-1]

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield all frames in order."""
        return self.frames()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield frames start..stop-1 in order, one in memory at a time. `stop` defaults to the end."""
        return self._read(range(*slice(start, stop).indices(len(self))))

    def close(self) -> None:
        """Close the file. Nothing can be read afterwards."""
        self._is_closed = True
        self._source.close()

    def __enter__(self) -> Video:
        """Use the video in a `with` block, which closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def __repr__(self) -> str:
        """Say what was opened."""
        width, height = self.size
        return f"<Video {self.name!r}: {len(self)} frames of {width} x {height}, {self.fps:g} fps>"

    def _one(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        length = len(self)
        i = index + length if index < 0 else index
        if not 0 <= i < length:
            raise IndexError(f"{self.name} has {length} frames (0..{length - 1}), there is no frame {index}.")
        for frame in self._read(range(i, i + 1)):
            return frame
        raise VideoError(
            f"Frame {index} of {self.name} cannot be read: the readable part ends after {len(self)} frames."
        )

    def _read(self, indices: range) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        if self._is_closed:
            raise VideoError(f"{self.name} has been closed. Open it again with open_video.")
        return self._source.frames(indices)


def open_video(
    source: str | os.PathLike[str] | np.ndarray | Video,
    *,
    fps: float | None = None,
    strict: bool = False,
    protocols: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> Video:
    """Open a video for reading.

    source     a video file; a folder of images, or a pattern such as `"frames/*.png"` (in natural order: 2 before 10);
               one image; an array (T, H, W, 3) uint8 RGB, or (T, H, W) grey; an open `Video`, which is returned
    fps        frames a second of images and arrays, which have no times of their own (default 25)
    strict     decode the whole file once now, and raise CorruptVideoError if any of it is damaged or missing. Without
               it a damaged file gives the frames up to the fault, and a warning that says how many there should be
    protocols  names of protocols that may be used besides local files, such as `("https",)`. A remote file is read
               twice, once for its index
    limits     what the video may ask of this machine

    Raises VideoError if there is nothing to read.
    """
    if isinstance(source, Video):
        return source
    if fps is not None and not 0 < fps < float("inf"):
        raise OptionError(f"fps must be a positive number, got {fps}.")
    if isinstance(source, np.ndarray):
        return Video(ArraySource(source, fps=fps or DEFAULT_FPS, limits=limits))
    if not isinstance(source, str | os.PathLike):
        raise VideoError(f"A video is opened from a path or a NumPy array, got {type(source).__name__}.")

    path = Path(source)
    images = _images(path)
    if images:
        numbered = ImageSource(images, path.name, fps=fps or DEFAULT_FPS, strict=strict, limits=limits)
        if strict:
            numbered.check()
        return Video(numbered)
    if fps is not None:
        raise OptionError(f"fps is for images and arrays; {path.name} has times of its own. Leave fps out.")
    if protocol_of(str(source)) and not path.exists():
        address = Address.of_url(str(source), protocols)
    else:
        address = Address.of_file(path)
    return Video(FileSource(address, strict=strict, limits=limits))


def read_images(
    path: str | os.PathLike[str],
    *,
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> UInt8[np.ndarray, "T H W 3"]:
    """Read a folder of images, or those that match a pattern, into memory; each is decoded once.

    What `open_video(path, strict=True)[:]` gives, in half the time. Raises VideoError if there are none, and
    CorruptVideoError if one is damaged or has another size than the first.
    """
    path = Path(path)
    images = _images(path)
    if not images:
        raise VideoError(f"{path} is neither a folder of images nor a pattern. Read a video with open_video.")
    return Video(ImageSource(images, path.name, fps=DEFAULT_FPS, strict=True, limits=limits))[:]


def _images(path: Path) -> list[Path]:
    """Return the image files that a path stands for; none if it is something else."""
    if path.is_dir():
        images = [p for p in path.iterdir() if _is_image(p)]
        if not images:
            raise VideoError(
                f"The folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}). "
                f"Give the folder that holds the frames, or a video file."
            )
        return in_natural_order(images)
    if path.exists() or not GLOB_CHARACTERS & set(str(path)):
        return [path] if path.is_file() and _is_image(path) else []
    if protocol_of(str(path)):
        return []
    images = [p for p in map(Path, glob.glob(str(path), recursive=True)) if _is_image(p)]  # noqa: PTH207  absolute, too
    if not images:
        raise VideoError(
            f"No image matches {path}. A pattern stands for the frames of one video, such as 'frames/*.png'."
        )
    return in_natural_order(images)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
