"""What every kind of video offers to `Video`: a size, times, and frames in order; and how large one may be.

A source is a file (`file.py`), a list of images (`images.py`) or an array (here). All of them give frames of the same
kind: 8-bit RGB in the orientation in which a person would see them, and a new array each time.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8

from pointloom.errors import CorruptVideoError, OptionError, PointloomWarning, VideoError

DEFAULT_FPS = 25.0  # for images and arrays, which have no times of their own


@dataclass(frozen=True)
class Limits:
    """What a video may ask of this machine before it is refused.

    max_pixels  pixels of one frame; the default is 8192 x 8192
    max_frames  frames of the whole video; the default is a day at 23 frames a second
    timeout_s   seconds that opening may take, or reading until the next frame appears
    """

    max_pixels: int = 2**26
    max_frames: int = 2_000_000
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing could pass."""
        for name in ("max_pixels", "max_frames", "timeout_s"):
            if not getattr(self, name) > 0:
                raise OptionError(f"Limits.{name} must be positive, got {getattr(self, name)}.")

    def check_size(self, name: str, width: int, height: int) -> None:
        """Raise VideoError if a frame is too large, or has no pixels."""
        if width <= 0 or height <= 0:
            raise VideoError(f"{name} has frames of {width} x {height} pixels; nothing can be read from it.")
        if width * height > self.max_pixels:
            raise VideoError(
                f"{name} has frames of {width} x {height} pixels, more than the limit of {self.max_pixels} pixels. "
                f"Scale it down first, or pass limits=Limits(max_pixels=...) if you trust it."
            )

    def check_length(self, name: str, frames: int) -> None:
        """Raise VideoError if there are too many frames."""
        if frames > self.max_frames:
            raise VideoError(
                f"{name} has more than {self.max_frames} frames. "
                f"Cut it into pieces, or pass limits=Limits(max_frames=...)."
            )

    def check_time(self, name: str, elapsed_s: float) -> None:
        """Raise VideoError if one step of reading has taken too long."""
        if elapsed_s > self.timeout_s:
            raise VideoError(
                f"Reading {name} took more than {self.timeout_s:g} s for a single frame. Convert it to a plain mp4, "
                f"or pass limits=Limits(timeout_s=...)."
            )


class Source(ABC):
    """Where the frames of a `Video` come from."""

    def __init__(self, name: str, *, strict: bool, limits: Limits) -> None:
        self.name = name
        self.strict = strict
        self.limits = limits

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as shown."""

    @property
    @abstractmethod
    def seconds(self) -> Float64[np.ndarray, " T"]:
        """Presentation time of each frame."""

    @property
    @abstractmethod
    def fps(self) -> float:
        """Nominal frames a second."""

    @abstractmethod
    def frames(self, indices: range) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the frames with these ascending indices. Ends early if a fault of the file comes first."""

    def close(self) -> None:  # noqa: B027
        """Release files. Only sources that hold any do something."""

    def report_fault(self, declared: int, found: int, reason: str) -> None:
        """Warn that the video ends early, or raise CorruptVideoError where strict reading was asked for."""
        message = f"{self.name} declares {declared} frames, but only {found} could be read: {reason}."
        if self.strict:
            raise CorruptVideoError(f"{message} Without strict=True those {found} frames can be used.")
        warnings.warn(
            f"{message} Those {found} are used; strict=True makes this an error.", PointloomWarning, stacklevel=3
        )


class ArraySource(Source):
    """Frames that are in memory already."""

    def __init__(self, frames: np.ndarray, *, fps: float, limits: Limits) -> None:
        super().__init__("array", strict=False, limits=limits)
        self._frames = _as_rgb(frames)
        self._fps = fps
        limits.check_size("The array", *self.size)
        limits.check_length("The array", len(frames))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self._frames.shape[2], self._frames.shape[1]

    @property
    def seconds(self) -> Float64[np.ndarray, " T"]:
        """Regular times from 0."""
        return np.arange(len(self._frames)) / self._fps

    @property
    def fps(self) -> float:
        """What the caller said."""
        return self._fps

    def frames(self, indices: range) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield copies of frames."""
        for i in indices:
            yield self._frames[i].copy()


def _as_rgb(frames: np.ndarray) -> UInt8[np.ndarray, "T H W 3"]:
    """Check an array of frames. Grey ones, (T, H, W) or (T, H, W, 1), get three equal channels without a copy."""
    shape = frames.shape
    if frames.dtype != np.uint8:
        raise VideoError(
            f"Frames must be uint8 (0..255), got {frames.dtype}. "
            f"For floats in 0..1: (frames * 255).round().astype(np.uint8)."
        )
    if frames.ndim == 3 and shape[-1] == 3:
        raise VideoError(f"An array of shape {shape} looks like one image. Make it a video of one frame: frames[None].")
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise VideoError(
            f"Frames must have the shape (T, H, W, 3) in RGB, or (T, H, W) in grey, got {shape}. "
            f"Leave alpha out: frames[..., :3]. Channels go last: frames.transpose(0, 2, 3, 1)."
        )
    if len(frames) == 0:
        raise VideoError("The array has no frames.")
    return np.broadcast_to(frames, (*frames.shape[:3], 3))
