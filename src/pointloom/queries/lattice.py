"""Regular arrangements of queries in one frame: a few over the whole frame, or one every few pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from pointloom.errors import OptionError
from pointloom.geometry import from_raster
from pointloom.queries.base import VideoLike, on_frame
from pointloom.queries.grid import grid_points


@dataclass(frozen=True)
class Grid:
    """`size` x `size` points over the whole frame, row by row; the margin on every side is a 64th of the frame's width.

    The grid of CoTracker (Karaev et al. 2024), centred on the frame: it is laid out in raster coordinates, in which a
    frame of W x H pixels reaches from 0 to W and H. A frame much wider than high has no room for the margin; its points
    are moved to the edge.
    """

    size: int
    frame: int = 0

    def __post_init__(self) -> None:
        """Refuse a grid without points."""
        if self.size < 1:
            raise OptionError(f"a grid has at least 1 point a side, got {self.size}.")

    def sample(self, video: VideoLike) -> Float32[np.ndarray, "N 3"]:
        """Return the points of the grid."""
        width, height = video.size
        xy = from_raster(np.asarray(grid_points(self.size, (height, width)), np.float32))
        return on_frame(np.clip(xy, 0, [width - 1, height - 1]), self.frame)


@dataclass(frozen=True)
class Dense:
    """One point every `stride` pixels, both ways, row by row; half a stride away from the edge."""

    stride: int
    frame: int = 0

    def __post_init__(self) -> None:
        """Refuse a stride of nothing."""
        if self.stride < 1:
            raise OptionError(f"the stride is at least 1 pixel, got {self.stride}.")

    def sample(self, video: VideoLike) -> Float32[np.ndarray, "N 3"]:
        """Return the points of the lattice."""
        return on_frame(lattice(video.size, self.stride), self.frame)


def lattice(size: tuple[int, int], stride: int) -> Float32[np.ndarray, "N 2"]:
    """Return pixels `stride` apart, row by row, at least one however small the frame is."""
    along_x, along_y = (np.arange(min(stride - 1, side - 1) // 2, side, stride, dtype=np.float32) for side in size)
    x, y = np.meshgrid(along_x, along_y)
    return np.stack([x.ravel(), y.ravel()], axis=1)
