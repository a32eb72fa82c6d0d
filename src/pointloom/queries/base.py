"""What a sampler of queries is, what it may ask of a video, and the check that every query passes before tracking.

A query is (frame, x, y): the frame counts from 0, x and y are pixels of the video, integers are pixel centres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from pointloom.errors import QueryError
from pointloom.geometry import inside


@runtime_checkable
class VideoLike(Protocol):
    """What queries and tracking need of a video; `pointloom.open_video` gives one."""

    @property
    def name(self) -> str:
        """Where it is from, for messages and meta data."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""

    @property
    def seconds(self) -> Float64[np.ndarray, " T"]:
        """When each frame is shown."""

    def __len__(self) -> int:
        """Return the number of frames."""

    def __getitem__(self, frames: slice, /) -> UInt8[np.ndarray, "T H W 3"]:
        """Read consecutive frames, RGB."""


@runtime_checkable
class Sampler(Protocol):
    """A way to choose queries, which may look at the video."""

    def sample(self, video: VideoLike) -> Float32[np.ndarray, "N 3"]:
        """Return queries (frame, x, y)."""


def on_frame(xy: Float32[np.ndarray, "N 2"], frame: int) -> Float32[np.ndarray, "N 3"]:
    """Put a frame in front of positions."""
    return np.column_stack([np.full(len(xy), frame), xy]).astype(np.float32)


def check_queries(queries: Float32[np.ndarray, "N 3"], *, frames: int | None, size: tuple[int, int] | None) -> None:
    """Raise QueryError for the first query that cannot be tracked in a video of so many frames of this (width, height).

    None where there is no end, or where the size is not known yet.
    """
    frame, x, y = queries.T
    _refuse(
        ~np.isfinite(queries).all(axis=1),
        lambda n: (
            f"is ({frame[n]:g}, {x[n]:g}, {y[n]:g}), which is not three numbers. Leave points out that are not known."
        ),
    )
    _refuse(
        frame != np.floor(frame),
        lambda n: (
            f"starts in frame {frame[n]:g}. Frames are whole numbers that count from 0; round it, or convert seconds."
        ),
    )
    _refuse(frame < 0, lambda n: f"starts in frame {frame[n]:.0f}. Frames count from 0.")
    if frames is not None:
        _refuse(
            frame >= frames,
            lambda n: (
                f"starts in frame {frame[n]:.0f}, but the video has {frames} frames ({_range(frames)}). "
                f"Frames count from 0. If the query refers to the uncut video, subtract the clip's first frame."
            ),
        )
    if size is None:
        return
    width, height = size
    _refuse(
        ~inside(queries[:, 1:], size),
        lambda n: (
            f"lies at ({x[n]:g}, {y[n]:g}), outside the frame of {width} x {height} pixels "
            f"(x in -0.5..{width - 0.5}, y in -0.5..{height - 0.5}). Queries are (frame, x, y) in pixels of the video: "
            f"scale them if they belong to another size, multiply by it if they lie in 0..1."
        ),
    )


def check_frame(frame: int, video: VideoLike, what: str) -> None:
    """Raise QueryError if a sampler is to look at a frame that is not there."""
    if not 0 <= frame < len(video):
        raise QueryError(
            f"{what} are to be chosen in frame {frame}, but the video has {len(video)} frames ({_range(len(video))}). "
            f"Frames count from 0."
        )


def _refuse(wrong: Bool[np.ndarray, " N"], why: Callable[[int], str]) -> None:
    count = int(wrong.sum())
    if count:
        others = f" {count - 1} others have the same fault." if count > 1 else ""
        first = int(wrong.argmax())
        raise QueryError(f"query {first} {why(first)}{others}")


def _range(count: int) -> str:
    return f"0..{count - 1}" if count else "none"
