"""Queries on an object: a regular arrangement of points, as far as a mask of the object reaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import ArrayLike

from pointloom.errors import OptionError, QueryError
from pointloom.queries.base import VideoLike, on_frame
from pointloom.queries.lattice import lattice

DEFAULT_SPACING_PX = 8


class Mask:
    """Points `spacing_px` apart where a mask is not zero. An object that falls between them gets one point.

    The mask is an array (H, W), or an image file in which all but black belongs to the object; it has the size of
    the video. The one point lies on the pixel of the object that is nearest to its middle.
    """

    def __init__(self, mask: ArrayLike | str | Path, *, spacing_px: int = DEFAULT_SPACING_PX, frame: int = 0) -> None:
        """Take or read the mask."""
        if spacing_px < 1:
            raise OptionError(f"the spacing is at least 1 pixel, got {spacing_px}.")
        self._mask = read_mask(Path(mask)) if isinstance(mask, str | Path) else np.asarray(mask) != 0
        if self._mask.ndim != 2:
            raise QueryError(f"a mask has the shape (height, width), got {self._mask.shape}.")
        if not self._mask.any():
            raise QueryError("the mask is empty: every pixel is zero. Mark the object with any other value.")
        self.spacing_px = spacing_px
        self.frame = frame

    def __repr__(self) -> str:
        """Say how large the object is."""
        return f"Mask({int(self._mask.sum())} pixels, spacing_px={self.spacing_px}, frame={self.frame})"

    def sample(self, video: VideoLike) -> Float32[np.ndarray, "N 3"]:
        """Return the points on the object."""
        width, height = video.size
        if self._mask.shape != (height, width):
            raise QueryError(
                f"the mask has {self._mask.shape[1]} x {self._mask.shape[0]} pixels, the video {width} x {height}. "
                f"Resize the mask to the video, with nearest neighbours."
            )
        xy = lattice(video.size, self.spacing_px)
        xy = xy[self._mask[xy[:, 1].astype(int), xy[:, 0].astype(int)]]
        return on_frame(xy if len(xy) else self._middle(), self.frame)

    def _middle(self) -> Float32[np.ndarray, "1 2"]:
        pixels = np.argwhere(self._mask)[:, ::-1].astype(np.float32)  # (x, y)
        distance = np.square(pixels - pixels.mean(axis=0)).sum(axis=1)
        return pixels[[distance.argmin()]]


def read_mask(path: Path) -> Bool[np.ndarray, "H W"]:
    """Read an image and return where it is not black."""
    import cv2  # slow to import, and rarely needed here

    if not path.is_file():
        raise QueryError(f"there is no mask {path}.")
    data = np.fromfile(path, np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise QueryError(f"the mask {path} is not an image that can be read. Save it as png.")
    colours: UInt8[np.ndarray, "H W C"] = image.reshape(*image.shape[:2], -1)[..., :3]  # without transparency
    marked: Bool[np.ndarray, "H W"] = (colours != 0).any(axis=-1)
    return marked
